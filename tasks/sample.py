"""Responses of an artifact's policy, read as the artifact itself says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_core.errors import ArtifactError
from rlhf_core.settings.model import ModelSettings
from tasks.store import Store
from tasks.targets import find_target

if TYPE_CHECKING:
    from rlhf_core.sampling import Response

SHOWN_PROMPTS = 5
"""Held-out prompts that are answered where none is given."""


@dataclass(frozen=True)
class Samples:
    """The responses, and the artifact whose policy gave them."""

    digest: str
    stage: str
    responses: "list[Response]"


def sample_policy(
    target: str, prompts: tuple[str, ...], store: Store, *, temperature: float, seed: int
) -> Samples:
    """Responses to the prompts, or to held-out ones of the artifact's own data where none is given.

    Raises ArtifactError where the artifact holds no policy.
    """
    artifact = find_target(target, store)
    if artifact.stage not in ("sft", "ppo"):
        raise ArtifactError(
            f"{artifact.path} was written by stage '{artifact.stage}' and holds no policy: name "
            "an artifact of stage 'sft' or 'ppo'."
        )
    provenance = artifact.provenance()
    model = ModelSettings.model_validate(provenance["fingerprint"]["settings"]["model"])
    if not prompts:
        from rlhf_core.tables import read_prompts

        data = find_target(provenance["inputs"]["data"]["digest"], store)
        prompts = tuple(read_prompts(data.path, "evaluation").prompt[:SHOWN_PROMPTS])
    from rlhf_core.sampling import sample_texts

    responses = sample_texts(artifact.path, model, prompts, temperature=temperature, seed=seed)
    return Samples(artifact.digest, artifact.stage, responses)
