"""Outputs of sharded modules that are views, copied: what follows may change them in place."""

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def with_own_outputs(module: nn.Module) -> None:
    """Has a module's forward give copies in the place of views, from before it is sharded on.

    `fully_shard` gathers a module's parameters for the backward by a hook on what the forward gave. A view, such as
    what a linear layer makes of a sequence, loses that hook when it is changed in place (`y += x`, `logits /= t`): the
    backward would find no parameters, or the gradients of a model without blocks would never be scattered.

    Args:
        module: that will be sharded.
    """
    module.register_forward_hook(_copied)


def _copied(_module: nn.Module, _args: object, output: Any) -> Any:
    return pytree.tree_map_only(Tensor, _own, output)


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.requires_grad and tensor._is_view() else tensor
