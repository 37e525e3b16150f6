"""Gradients of workers that usually step apart, averaged for an exact step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meshwright.parallel._pieces import local

# Makes a tensor its sum over those that average, in place.
Sum = Callable[[Tensor], object]


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor], *, weight: float, add_up: Sum) -> None:
    """Makes gradients the weighted mean of those of all that call it at the same time; who has none counts as zero.

    A parameter whose gradient nobody has keeps none. Sparse gradients stay so, with the rows of all.

    Args:
        parameters: in the same order everywhere.
        weight: of this one's gradients.
        add_up: over all; takes sparse tensors too where there are sparse gradients.
    """
    gradients = [tensor.grad for tensor in parameters]
    sparse = [gradient is not None and gradient.is_sparse for gradient in gradients]
    present = [gradient is not None for gradient in gradients]
    device = local(parameters[0]).device
    told = torch.tensor([weight, *map(float, present), *map(float, sparse)], dtype=torch.float64, device=device)
    add_up(told)
    total, *counts = told.tolist()
    present, sparse = [[count > 0 for count in part] for part in (counts[: len(present)], counts[len(present) :])]
    _average_dense(
        [tensor for tensor, there, rows in zip(parameters, present, sparse, strict=True) if there and not rows],
        share=weight / total,
        add_up=add_up,
    )
    for tensor, rows in zip(parameters, sparse, strict=True):
        if rows:
            own = torch.zeros_like(tensor).to_sparse(1) if tensor.grad is None else tensor.grad
            mean = own.coalesce() * (weight / total)
            add_up(mean)
            tensor.grad = mean.coalesce()


def _average_dense(parameters: Sequence[Tensor], *, share: float, add_up: Sum) -> None:
    if not parameters:
        return
    parts = [
        (torch.zeros_like(local(tensor)) if tensor.grad is None else local(tensor.grad)).reshape(-1).double() * share
        for tensor in parameters
    ]
    flat = torch.cat(parts)
    add_up(flat)
    for tensor, mean in zip(parameters, flat.split([part.numel() for part in parts]), strict=True):
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        own = local(tensor.grad)
        own.copy_(mean.view(own.shape))
