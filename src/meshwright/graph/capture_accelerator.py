"""What an accelerator runs as one kernel and a processor composes, for models that are on no device yet.

A model on the meta device is captured to be trained elsewhere. Fake tensors take the processor's kernels: an RMS norm
in parts, which save its input and its result in 32 bits, and dropout with a mask as wide as what it masks. For
processors elsewhere, which few train such models on, that is up to these parts too little. Functions that are called
without their modules stay as they are.

A script that is written for an accelerator enters its autocast, which torch turns off where there is none: it then
counts for the fake tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ASKED = "_meshwright_asked"


def with_kernels_of(copy: nn.Module, model: nn.Module) -> nn.Module:
    """A copy that runs the kernels of where the model will be: of an accelerator, if it is on no device.

    Modules have them, not a mode: in the backward, where checkpointing runs forwards again, modes are not entered.

    Args:
        copy: of the capture's own.
        model: that it is a copy of.
    """
    if _is_nowhere(model):
        for module in copy.modules():
            if type(module) is nn.RMSNorm:
                module.__dict__["forward"] = partial(_rms_norm, module)
            elif type(module) is nn.Dropout:
                module.__dict__["forward"] = partial(_dropout, module)
    return copy


@contextmanager
def autocast_of(model: nn.Module) -> Iterator[None]:
    """While an accelerator's autocast, where a script enters it, counts for a model that is on no device."""
    made = torch.autocast.__init__
    if not _is_nowhere(model):
        yield
        return

    @wraps(made)
    def on_fake_tensors(
        self: Any, device_type: str, dtype: torch.dtype | None = None, *more: Any, **named: Any
    ) -> None:
        usual = torch.get_autocast_dtype(device_type) if dtype is None else dtype
        made(self, "cpu", usual, *more, **named)

    entered = torch.autocast.__enter__
    turned_on: list[Any] = []

    @wraps(entered)
    def turned_on_again(self: Any) -> Any:
        if getattr(self, _ASKED, False) and not self._enabled:
            turned_on.append((self, self.device))
            self.device, self._enabled = "cpu", True
        return entered(self)

    torch.autocast.__init__, torch.autocast.__enter__ = on_fake_tensors, turned_on_again
    try:
        yield
    finally:
        torch.autocast.__init__, torch.autocast.__enter__ = made, entered
        for context, device in turned_on:
            context.device, context._enabled = device, False


@contextmanager
def autocast_remembered() -> Iterator[None]:
    """While contexts that a script makes beforehand keep whether they were asked for: torch turns them off at once."""
    made = torch.autocast.__init__

    @wraps(made)
    def remembering(
        self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *more: Any, **named: Any
    ) -> None:
        made(self, device_type, dtype, enabled, *more, **named)
        setattr(self, _ASKED, enabled and device_type != "cpu")

    torch.autocast.__init__ = remembering
    try:
        yield
    finally:
        torch.autocast.__init__ = made


def _is_nowhere(model: nn.Module) -> bool:
    return {tensor.device.type for tensor in model.parameters()} == {"meta"}


def _rms_norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
    """Reads, writes and saves what a layer norm does, but for one more number per row."""
    return F.layer_norm(x, module.normalized_shape, module.weight, None, module.eps or torch.finfo(x.dtype).eps)


def _dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    """With a mask of one byte for each element."""
    if not module.training or module.inplace or not 0.0 < module.p < 1.0:
        return F.dropout(x, module.p, module.training, module.inplace)
    return torch.native_dropout(x, module.p, True)[0]
