"""Dropout on what each block adds to the residual stream, for as long as SFT trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from rlhf_core.errors import ModelError

WRITERS = frozenset(
    {"o_proj", "down_proj", "c_proj", "out_proj", "fc2", "dense_4h_to_h", "attention.dense"}
)
"""Names of the linear maps that write into the residual stream: Llama and its kin, GPT-2, OPT,
GPT-NeoX."""

ADDED = "residual_dropout"


@contextmanager
def residual_dropout(model: nn.Module, rate: float) -> Iterator[None]:
    """Within, `model` in training mode drops this share of each block's output, attention and MLP.

    It is the residual dropout of arXiv:1706.03762, section 5.4, as InstructGPT used it in SFT.
    Afterwards the model is as it was, but for what it learnt.
    """
    if rate == 0:
        yield
        return
    writers = [module for name, module in model.named_modules() if _writes(name)]
    if not writers:
        raise ModelError(
            f"sft.dropout={rate}: a {type(model).__name__} has none of the modules "
            f"{', '.join(sorted(WRITERS))}, after which it would be applied. Set sft.dropout to 0."
        )
    handles = []
    for writer in writers:
        # A module of the model: optimization then knows that a pass draws random numbers.
        writer.add_module(ADDED, nn.Dropout(rate).train(writer.training))
        handles.append(writer.register_forward_hook(_dropped))
    try:
        yield
    finally:
        for writer, handle in zip(writers, handles, strict=True):
            handle.remove()
            delattr(writer, ADDED)


def _writes(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] in WRITERS or ".".join(parts[-2:]) in WRITERS


def _dropped(writer: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    dropout = writer.get_submodule(ADDED)
    dropped: Tensor = dropout(output)
    return dropped
