"""The tensors of a job by name: what gets gradients, and what every worker must hold alike."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.parallel._pieces import Piece, Span, local


def trainable_parameters(model: nn.Module, optimizer: Optimizer | None) -> list[tuple[str, Tensor]]:
    """Parameters that need gradients, each once, by the user's names.

    A tied parameter has its first name. What only the optimizer knows, such as a parameter of the loss, is named by its
    place there.
    """
    return [(name, tensor) for name, tensor in all_parameters(model, optimizer) if tensor.requires_grad]


def all_parameters(model: nn.Module, optimizer: Optimizer | None) -> list[tuple[str, Tensor]]:
    """Parameters, frozen ones too, each once, by the user's names."""
    named: dict[int, tuple[str, Tensor]] = {id(tensor): (name, tensor) for name, tensor in model.named_parameters()}
    for group, entry in enumerate(optimizer.param_groups if optimizer else ()):
        for position, tensor in enumerate(entry["params"]):
            named.setdefault(id(tensor), (f"optimizer.{group}.{position}", tensor))
    return list(named.values())


def state_pieces(model: nn.Module, spans_of: Callable[[Tensor], tuple[Span, ...]] | None = None) -> list[Piece]:
    """The tensors in a model's `state_dict`, under all their keys.

    Args:
        model: the user's.
        spans_of: where what this worker holds of a tensor lies in the whole; None: it is the whole.
    """
    return [
        Piece(name=key, tensor=local(value.detach()), spans=() if spans_of is None else spans_of(value))
        for key, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    ]


def batch_norm_buffers(model: nn.Module) -> set[int]:
    """Identities of the running statistics that every worker computes alike."""
    return {
        id(buffer)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
    }


def stands_alone(model: nn.Module, block: nn.Module) -> bool:
    """Whether a block is a part of the model that shares no parameter with the rest."""
    inside = set(block.modules())
    own = {id(tensor) for tensor in block.parameters()}
    return block is not model and not any(
        id(tensor) in own
        for module in model.modules()
        if module not in inside
        for tensor in module.parameters(recurse=False)
    )
