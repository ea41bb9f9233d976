"""How a running stage says where it stands, without knowing who listens."""

from collections.abc import Callable, Mapping

Report = Callable[[int, Mapping[str, float]], None]
"""Called as `report(step, metrics)`: the step counts from 1 within the stage, metrics are finite
or NaN floats named in words (`loss`, `kl_to_reference`); several calls may share one step."""


def ignore(step: int, metrics: Mapping[str, float]) -> None:
    """Listen to nothing: the report of a caller who only wants the result."""
