"""Which batches a program is right for."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from meshwright.graph.capture_batch import leaves


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Everything about a batch and the model's state that a captured graph holds as constants.

    Args:
        tensors: path, shape, data type and device of every tensor.
        constants: path and value of everything else.
        training: whether each module of the model is in training mode.
    """

    tensors: tuple[tuple[str, tuple[int, ...], str, str], ...]
    constants: tuple[tuple[str, str], ...]
    training: tuple[bool, ...]


def signature_of(model: nn.Module, batch: Any) -> Signature:
    """The signature of a batch for a model as it is now."""
    found = list(leaves(batch))
    return Signature(
        tensors=tuple(
            (path, tuple(leaf.shape), str(leaf.dtype), str(leaf.device))
            for path, leaf in found
            if isinstance(leaf, Tensor)
        ),
        constants=tuple((path, repr(leaf)) for path, leaf in found if not isinstance(leaf, Tensor)),
        training=tuple(module.training for module in model.modules()),
    )
