"""Every cause that a verdict can name, with its mend: the right-hand side of the symptom table.

The table is that of the specification, section 3.11; `signatures` holds its left-hand side.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why a number is wrong, and what to do about it; both go into one sentence."""

    name: str
    says: str
    mend: str

    @property
    def sentence_part(self) -> str:
        """`says`, and the mend after a semicolon."""
        return f"{self.says}; {self.mend}"


_CAUSES = (
    # Numbers that are not finite.
    Cause(
        "bad_reward",
        "the reward model or reward function gives numbers that are not finite",
        "look at its training and at the rows named in the diagnosis",
    ),
    Cause(
        "bad_weights",
        "an earlier step was so large that weights overflowed",
        "lower the learning rate or max_grad_norm",
    ),
    Cause(
        "bad_layer",
        "a layer's output overflows or divides by nothing",
        "lower the learning rate, use float32 or bfloat16 instead of float16, and look at the rows "
        "named in the diagnosis",
    ),
    Cause(
        "bad_loss",
        "the loss itself is not finite though every layer's output is: an empty mask, a logarithm "
        "of 0 or an overflowing ratio",
        "look at the rows named in the diagnosis",
    ),
    Cause(
        "bad_gradient",
        "the gradient is not finite though the loss is: a square root or division at 0",
        "look at the rows named in the diagnosis and lower the learning rate",
    ),
    Cause(
        "no_good_step",
        "not one step had finite numbers",
        "look at the first bad tensor and the rows named in the diagnosis",
    ),
    # What has to hold of every rollout exactly.
    Cause(
        "kl_sign",
        "the KL is added to the rewards instead of subtracted, so that drifting away is rewarded",
        "mend the sign of the KL penalty",
    ),
    Cause(
        "kl_missing",
        "the KL penalty is missing from the rewards though kl_coef is not 0",
        "subtract kl_coef times the KL from every token's reward",
    ),
    Cause(
        "score_on_every_token",
        "the score is added to every token instead of the last, which pays for length",
        "add the score at each response's last token only",
    ),
    Cause(
        "rewards_shifted",
        "every token's reward is shifted by the same amount, as whitening with a mean shift does, "
        "which makes length itself good or bad",
        "whiten rewards without a shift or, better, not at all",
    ),
    Cause(
        "rewards_wrong",
        "the rewards of a response do not sum to its score minus kl_coef times its KL",
        "mend what computes the rewards",
    ),
    Cause(
        "mask_wrong",
        "the response mask does not end at the first end token, so that padding is trained on",
        "take the mask up to and including the first end token",
    ),
    Cause(
        "missing_eos_rule_off",
        "responses that did not end keep their own score, which the reward model was never "
        "taught to give",
        "replace the score of unfinished responses by ppo.missing_eos_score",
    ),
    Cause(
        "one_seed",
        "two rollouts are drawn from the same seed, so that the policy sees the same draws again",
        "give every rollout and process a seed of its own",
    ),
    Cause(
        "reference_moves",
        "the KL is not taken against the frozen SFT policy: the reference moves with the policy",
        "freeze the reference as it was before the first update",
    ),
    Cause(
        "another_reference",
        "the reference is another model than the policy's start",
        "start the policy from the reference's own weights, template and precision",
    ),
    # Rollout and update.
    Cause(
        "dropout",
        "dropout is on, so that two passes of the same weights differ",
        "set every dropout of the model to 0 in PPO (detail P20)",
    ),
    Cause(
        "paths_differ",
        "rollout and update do not compute the same log-probabilities: another temperature, "
        "padding or position ids in one of the two",
        "use one function for both",
    ),
    Cause(
        "positions_or_mask",
        "attention mask or position ids are not used as they have to be, so that padding changes "
        "what the model says",
        "give the model the mask, and positions that count real tokens only",
    ),
    # The sampler.
    Cause(
        "greedy",
        "the sampler always takes the likeliest token",
        "sample (do_sample) at the temperature of the log-probabilities",
    ),
    Cause(
        "end_suppressed",
        "the sampler suppresses the end token at the start of a response (min_new_tokens or a "
        "minimum length)",
        "let a response end where the policy ends it",
    ),
    Cause(
        "top_k",
        "the sampler never draws beyond its likeliest few tokens (top_k)",
        "set top_k to 0 in rollouts",
    ),
    Cause(
        "top_p",
        "the sampler never draws from the tail of the distribution (top_p)",
        "set top_p to 1 in rollouts",
    ),
    Cause(
        "sampler_temperature",
        "the sampler draws at another temperature than the log-probabilities are taken at",
        "divide the logits by ppo.temperature in both (detail P2)",
    ),
    Cause(
        "stale_sampler",
        "the sampler still has weights of earlier updates",
        "give the sampler the policy's weights before every rollout",
    ),
    Cause(
        "low_precision",
        "log-probabilities are taken from logits of lower precision in one of the two",
        "take the log-softmax of float32 logits (detail P21)",
    ),
    Cause(
        "sampler_differs",
        "the sampler draws from another distribution than the log-probabilities are taken of",
        "sample from softmax(logits / temperature) and nothing else: no top_k, top_p, penalties or "
        "minimum length, and the same mask and position ids",
    ),
    # Course of the training.
    Cause(
        "no_kl_penalty",
        "kl_coef is 0, so nothing holds the policy near the reference",
        "set ppo.kl_coef above 0, or stop earlier",
    ),
    Cause(
        "kl_coef_low",
        "the KL penalty is too weak for the size of the scores",
        "raise ppo.kl_coef, or stop earlier",
    ),
    Cause(
        "learning_rate_high",
        "the learning rate is too high",
        "lower ppo.learning_rate, or warm up longer",
    ),
    Cause(
        "over_optimised",
        "the policy exploits the reward model where it is wrong",
        "stop earlier, raise ppo.kl_coef, or train a larger reward model or an ensemble",
    ),
    Cause(
        "kl_coef_high",
        "the KL penalty outweighs the score",
        "lower ppo.kl_coef",
    ),
    Cause(
        "learning_rate_low",
        "the policy hardly moves within an update, so the learning rate is too low",
        "raise ppo.learning_rate",
    ),
    Cause(
        "advantages_zero",
        "the advantages are all 0",
        "look at their mask and whitening",
    ),
    Cause(
        "not_learning",
        "the score does not follow the policy",
        "look at values, advantages and the reward model's accuracy",
    ),
    Cause(
        "optimizer_idle",
        "no weight of the policy moves: the optimizer does not step, or holds other parameters",
        "give the optimizer the policy's own parameters and a learning rate above 0",
    ),
    Cause(
        "collapse",
        "the policy gives the same response to different prompts",
        "raise ppo.kl_coef, lower ppo.learning_rate, and look at what the reward model likes in it",
    ),
    Cause(
        "missing_eos_weak",
        "an unfinished response scores no worse than a finished one",
        "lower ppo.missing_eos_score below nearly all scores of finished responses",
    ),
    Cause(
        "length_biased",
        "the reward model likes length",
        "look at length_correlation in its scorecard, lower ppo.missing_eos_score, and rank by "
        "more than length",
    ),
    Cause(
        "rewards_whitened",
        "ppo.whiten_rewards makes length itself good or bad",
        "set ppo.whiten_rewards to false",
    ),
    Cause(
        "length_falls",
        "each token costs more than it earns",
        "look at the sign of the KL, at what the reward model gives short responses, and whether "
        "the end token is in the response mask",
    ),
    Cause(
        "empty_liked",
        "the reward model likes empty responses",
        "rank some empty responses as worst and train the reward model again",
    ),
    Cause(
        "read_out",
        "the reward model is read at a position that says nothing of the response (a pad or the "
        "prompt), or its head was never trained",
        "read it at each response's last real token, and look at its scorecard",
    ),
    Cause(
        "scores_extreme",
        "the scores are too large to learn from",
        "normalise them, or set ppo.reward_clip",
    ),
    Cause(
        "value_leak",
        "the values know the score beforehand, or every score is the same",
        "read the value of the state before each token (column P-1+t)",
    ),
    Cause(
        "value_useless",
        "the value model predicts returns worse than their mean",
        "look at the columns it is read at, and raise ppo.value_learning_rate",
    ),
    Cause(
        "value_clip_tight",
        "the value clip is too tight for the size of the scores",
        "normalise the scores, or raise ppo.value_clip_range",
    ),
    Cause(
        "spike",
        "a few rows are extreme, or the learning rate is too high",
        "look at the rows of that step, and lower the learning rate where it comes back",
    ),
    Cause(
        "flat",
        "nothing is learnt: the learning rate is too low, or the labels are masked",
        "raise the learning rate, and look at the rows and their masks",
    ),
    Cause(
        "chance",
        "the rankings cannot be told apart: both responses of a pair have the same ids, the "
        "read-out is at a prompt token, the head is not trained, or the labels are noise",
        "look at the preferences and at the learning rate",
    ),
    # Before PPO.
    Cause(
        "pad_is_end",
        "the padding token is also an end token, so that the score is read one token early and the "
        "end is not learnt",
        "give the tokenizer a padding token of its own",
    ),
    Cause(
        "value_late",
        "the value model reads the column after the action, or does not mask the future",
        "read the value of the state before each token (column P-1+t)",
    ),
    Cause(
        "sft_does_not_end",
        "most of the SFT policy's responses do not end within model.max_response_tokens",
        "raise it, or train SFT longer on shorter responses that end with the end token",
    ),
    Cause(
        "template_differs",
        "PPO does not read text as SFT did: another template, tokenizer, or weights",
        "use the SFT stage's own tokenizer and model section",
    ),
    Cause(
        "reward_text_differs",
        "PPO does not show the reward model text as it was trained on: another template, space or "
        "read-out",
        "use the reward model's own tokenizer and model section, and read it at the end token",
    ),
    Cause(
        "labels_swapped",
        "the reward model prefers what the labels reject",
        "look whether chosen and rejected are swapped, in the data or in the loss",
    ),
    Cause("unknown", "the cause is not known", "read the last steps in the diagnosis"),
)

CAUSES = {cause.name: cause for cause in _CAUSES}
