"""What an accelerator runs as one kernel and a processor composes, for models that are on no device yet.

A model on the meta device is captured to be trained elsewhere. Fake tensors take the processor's kernels: an RMS norm
in parts, which save its input and its result in 32 bits, and dropout with a mask as wide as what it masks. For
processors elsewhere, which few train such models on, that is up to these parts too little. Functions that are called
without their modules stay as they are.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def with_kernels_of(copy: nn.Module, model: nn.Module) -> nn.Module:
    """A copy that runs the kernels of where the model will be: of an accelerator, if it is on no device.

    Modules have them, not a mode: in the backward, where checkpointing runs forwards again, modes are not entered.

    Args:
        copy: of the capture's own.
        model: that it is a copy of.
    """
    if {tensor.device.type for tensor in model.parameters()} == {"meta"}:
        for module in copy.modules():
            if type(module) is nn.RMSNorm:
                module.__dict__["forward"] = partial(_rms_norm, module)
            elif type(module) is nn.Dropout:
                module.__dict__["forward"] = partial(_dropout, module)
    return copy


def _rms_norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
    """Reads, writes and saves what a layer norm does, but for one more number per row."""
    return F.layer_norm(x, module.normalized_shape, module.weight, None, module.eps or torch.finfo(x.dtype).eps)


def _dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    """With a mask of one byte for each element."""
    if not module.training or module.inplace or not 0.0 < module.p < 1.0:
        return F.dropout(x, module.p, module.training, module.inplace)
    return torch.native_dropout(x, module.p, True)[0]
