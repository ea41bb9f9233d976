"""The policy that an artifact holds, with what is needed to let it answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_core.artifacts import Artifact
from rlhf_core.errors import ArtifactError
from rlhf_core.settings.model import ModelSettings
from tasks.store import Store
from tasks.targets import find_target

if TYPE_CHECKING:
    from rlhf_core.tables import PromptSplit


@dataclass(frozen=True)
class Policy:
    """An artifact of stage `sft` or `ppo`."""

    artifact: Artifact
    provenance: Mapping[str, Any]
    model: ModelSettings
    """The recipe's model section, as the policy was trained with it."""

    def prompts(self, store: Store, split: "PromptSplit") -> list[str]:
        """Prompts of that split of the data that the policy was made from."""
        from rlhf_core.tables import read_prompts

        data = find_target(self.provenance["inputs"]["data"]["digest"], store)
        return list(read_prompts(data.path, split).prompt)


def find_policy(target: str, store: Store) -> Policy:
    """The policy of the artifact that `target` names; ArtifactError where it holds none."""
    artifact = find_target(target, store)
    if artifact.stage not in ("sft", "ppo"):
        raise ArtifactError(
            f"{artifact.path} was written by stage '{artifact.stage}' and holds no policy: name "
            "an artifact of stage 'sft' or 'ppo'."
        )
    provenance = artifact.provenance()
    settings = provenance["fingerprint"]["settings"]["model"]
    return Policy(artifact, provenance, ModelSettings.model_validate(settings))
