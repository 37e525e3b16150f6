"""One fused update for all parameters instead of a dozen small operations for each."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

# Subclasses may have overridden the update; only torch's own are known to be the same mathematics when fused.
_WITH_FUSED_FORM = (Adam, AdamW, SGD, Adagrad)


def fused_supported(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether torch has a fused form of this optimizer for these parameters, on their device."""
    return (
        type(optimizer) in _WITH_FUSED_FORM
        and not any(getattr(module, "sparse", False) for module in model.modules())
        and all(_group_supported(type(optimizer), group) for group in optimizer.param_groups)
    )


def optimizer_form_applied(
    form: Literal["as_written", "fused"], *, model: nn.Module, optimizer: Optimizer | None
) -> AbstractContextManager[None]:
    """A context in which the user's own optimizer object updates in the given form; nothing where torch has none."""
    if form != "fused" or optimizer is None or not fused_supported(model, optimizer):
        return nullcontext()
    return _fused(optimizer)


def _group_supported(kind: type[Optimizer], group: dict) -> bool:
    devices = {"cpu"} if kind is Adagrad else {"cpu", "cuda", "xpu", "mps"}
    return (
        not group.get("differentiable")
        and not (kind is SGD and isinstance(group["lr"], torch.Tensor))
        and all(p.is_floating_point() and p.device.type in devices for p in group["params"])
    )


@contextmanager
def _fused(optimizer: Optimizer) -> Generator[None]:
    written = [(group, group.get("fused"), group.get("foreach")) for group in optimizer.param_groups]
    for group, _, _ in written:
        group["fused"], group["foreach"] = True, False
    moved = _move_counters(optimizer)
    try:
        yield
    finally:
        for group, fused, foreach in written:
            group["fused"], group["foreach"] = fused, foreach
        for state in moved:
            state["step"] = state["step"].cpu()


def _move_counters(optimizer: Optimizer) -> list[dict]:
    """Puts step counters made by the written form where the fused form reads them: on the parameter's device."""
    moved = []
    for parameter, state in optimizer.state.items():
        step = state.get("step")
        if isinstance(step, torch.Tensor) and step.device != parameter.device:
            state["step"] = step.to(device=parameter.device, dtype=torch.float32)
            moved.append(state)
    return moved
