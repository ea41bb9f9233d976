"""The recipe: one file that says all of a pipeline run."""

from typing import Self

from pydantic import Field, model_validator

from rlhf_core.settings.base import STAGES, Settings, Stage
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sft import SftSettings


class Recipe(Settings):
    """All of a pipeline run: data, model, one section per stage, and the seed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    """Lower case, digits and dashes; names the MLflow experiment and the registered models."""

    seed: int = Field(default=1, ge=0, lt=2**31)
    """Decides every random choice of the run."""

    last_stage: Stage = "evaluation"
    """The pipeline ends after this stage."""

    data: DataSettings
    model: ModelSettings
    sft: SftSettings = SftSettings()
    reward_model: RewardModelSettings = RewardModelSettings()
    ppo: PpoSettings = PpoSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this recipe runs, in order; a reward model where it is asked for.

        Where PPO is paid by functions alone there is none, unless the recipe ends there.
        """
        stages = STAGES[: STAGES.index(self.last_stage) + 1]
        if self.last_stage == "reward_model" or self.ppo.scoring.reward_model_weight is not None:
            return stages
        return tuple(stage for stage in stages if stage != "reward_model")

    @model_validator(mode="after")
    def _text_is_there_to_learn(self) -> Self:
        has_text = self.data.text is not None or (self.data.world and self.data.world.texts)
        if "sft" in self.stages and self.sft.pretraining_share > 0 and not has_text:
            raise ValueError(
                f"sft.pretraining_share={self.sft.pretraining_share} mixes in plain text, and "
                "there is none: give data.text a source (or data.world.texts a number), or set it "
                "to 0."
            )
        if "ppo" in self.stages and self.ppo.ptx is not None and not has_text:
            raise ValueError(
                "ppo.ptx learns plain text, and there is none: give data.text a source (or "
                "data.world.texts a number), or leave ppo.ptx out."
            )
        return self

    @model_validator(mode="after")
    def _each_stage_has_its_rows(self) -> Self:
        if self.data.world is not None:
            return self
        if "sft" in self.stages and not (self.data.demonstrations or self.data.preferences):
            raise ValueError(
                f"last_stage={self.last_stage!r} needs an SFT policy, which needs rows: give "
                "data.demonstrations a source (or data.preferences, whose preferred responses are "
                "taken), or end the recipe at an earlier stage."
            )
        if "reward_model" in self.stages:
            self._check_preferences()
        if "ppo" in self.stages and not (self.data.prompts or self.data.demonstrations):
            raise ValueError(
                f"last_stage={self.last_stage!r} needs PPO, which needs prompts: give data.prompts "
                "a source, or end the recipe at an earlier stage."
            )
        return self

    @model_validator(mode="after")
    def _dpo_has_its_preferences(self) -> Self:
        if self.ppo.algorithm == "dpo" and self.reward_model.collect is not None:
            raise ValueError(
                "ppo.algorithm='dpo' learns from the rankings of the data stage, and "
                "reward_model.collect makes its own later: let `rlhf collect` write them first, "
                "and give that file to data.preferences."
            )
        return self

    @model_validator(mode="after")
    def _a_choice_has_its_judge(self) -> Self:
        course = self.ppo.course
        if course is None or course.choose != "held_out_score" or "ppo" not in self.stages:
            return self
        if self.reward_model.held_out == "no":
            raise ValueError(
                "ppo.course.choose='held_out_score' needs a reward model that PPO is not paid by: "
                "set reward_model.held_out to other_rows or other_seed."
            )
        return self

    def _check_preferences(self) -> None:
        """Rankings are given or collected, and what is collected has prompts to begin with."""
        collect = self.reward_model.collect
        if collect is None and self.data.preferences is None:
            raise ValueError(
                f"last_stage={self.last_stage!r} needs a reward model, which needs rows: give "
                "data.preferences a source, let reward_model.collect collect them, or end the "
                "recipe at an earlier stage."
            )
        if collect is not None and not (self.data.prompts or self.data.demonstrations):
            raise ValueError(
                "reward_model.collect needs prompts that the SFT policy can answer: give "
                "data.prompts or data.demonstrations a source."
            )

    @model_validator(mode="after")
    def _long_responses_reach_sft(self) -> Self:
        if self.sft.long_responses == "cut" and self.data.long_responses != "keep":
            raise ValueError(
                f"sft.long_responses='cut' has nothing to cut, since data.long_responses="
                f"{self.data.long_responses!r} keeps long responses from it: set "
                "data.long_responses to 'keep'."
            )
        return self
