"""How each figure of the report is measured, in a sentence."""

from collections.abc import Mapping

from rlhf_core.evaluation.results import Results


def definitions(results: Results) -> Mapping[str, str]:
    """Terms of the page, with what stands behind them."""
    settings = results.settings
    n, prompts = settings.best_of_n, len(results.prompts)
    gold = {"gold score": f"{settings.gold}, from 0 to 1; no training stage has seen it."}
    given = {
        "demonstrations": "The responses given to the same prompts in the data, where there are "
        "any within the token budget."
    }
    return {
        "prompts": f"The first {prompts} held-out prompts within the token budget; no stage was "
        "trained or selected on them.",
        "SFT, PPO": "One response to each prompt, drawn from the policy's own distribution at "
        "temperature 1, without top-k, top-p or penalties.",
        "greedy": "The likeliest token each time: what sharpening alone would give.",
        f"best of {n}": f"{n} SFT responses to each of the first {results.common_prompts} prompts, "
        "of which the reward model picks one.",
        f"likeliest of {n}": "The one of the same responses with the highest summed "
        "log-likelihood under SFT: what picking without preferences would give.",
        **(given if "demonstrations" in results.sets else {}),
        **(gold if results.judge == "gold" else {}),
        "reward-model score": "The reward model's number at the end token; a response that did not "
        "end gets PPO's missing-EOS score instead.",
        "win rate": "Share of the prompts to which PPO's sampled response is graded above the "
        f"rival's; a tie counts half. Graded by the {_judge(results)}.",
        "lead": "Mean difference of the grades over the same pairs.",
        "at similar length": "The same on pairs whose lengths in tokens differ by at most 10 % of "
        "the longer.",
        "interval": f"Bounds of the middle 95 % of {settings.bootstrap_samples} bootstrap means "
        "over prompts. It covers the choice of prompts, not another training seed.",
        "KL": "log PPO(response) − log SFT(response), summed over the response's tokens, in the "
        f"mean over PPO's sampled responses: {results.kl.mean:.2f} nats. A second estimate of the "
        f"same (k3, never negative) gives {results.kl_k3.mean:.2f}.",
        "best of k": "ln k − (k − 1)/k nats away from SFT at most; its score is the mean over all "
        f"ways to draw k of the {n} responses.",
        "ended": "Share of the responses that hold an end token within the token budget.",
        "tokens": "Mean length, the end token included.",
        "distinct-n": "Different token n-grams over all n-grams of a set, on the first "
        f"{results.common_prompts} prompts for every set, since it falls with the size.",
    }


def _judge(results: Results) -> str:
    if results.judge == "gold":
        return "gold score"
    return "reward model that PPO was trained on, which is no independent evidence"
