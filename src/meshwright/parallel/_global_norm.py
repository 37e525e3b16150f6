"""The norm of all gradients together, where workers hold parts of some and others whole."""

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.exchange import Transport


def global_norm(
    parts: Sequence[Tensor],
    wholes: Sequence[Tensor],
    *,
    transport: Transport,
    device: torch.device,
    num_copies: int = 1,
) -> Tensor:
    """The norm, summed in float64; a scalar, the same on every worker.

    Args:
        parts: of gradients, of which other workers hold the rest.
        wholes: gradients that every worker holds alike.
        transport: adds up the squares of all workers.
        device: of the gradients.
        num_copies: workers that hold the same part.
    """
    squares = torch.zeros(1, dtype=torch.float64, device=device)
    for gradient in parts:
        squares += torch.linalg.vector_norm(gradient).double().square()
    transport.all_reduce(squares).wait()
    squares /= num_copies
    for gradient in wholes:
        squares += torch.linalg.vector_norm(gradient).double().square()
    return squares.sqrt()[0]
