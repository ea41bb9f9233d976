"""Responses of an artifact's policy, read as the artifact itself says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.policies import find_policy
from tasks.store import Store

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
    policy = find_policy(target, store)
    if not prompts:
        prompts = tuple(policy.prompts(store, "evaluation")[:SHOWN_PROMPTS])
    from rlhf_core.sampling import sample_texts

    responses = sample_texts(
        policy.artifact.path, policy.model, prompts, temperature=temperature, seed=seed
    )
    return Samples(policy.artifact.digest, policy.artifact.stage, responses)
