"""Which worker keeps the optimizer's state of which parameter."""

from collections.abc import Sequence

from torch import Tensor


def owners(parameters: Sequence[Tensor], size: int) -> list[int]:
    """Gives each parameter to a worker, in consecutive runs of about equal bytes.

    Runs, because gradients of neighbours are complete at about the same time and travel together.

    Args:
        parameters: all that need gradients.
        size: number of workers.
    """
    whole = sum(parameter.nbytes for parameter in parameters)
    owner, start = [], 0
    for parameter in parameters:
        middle = start + parameter.nbytes / 2
        owner.append(min(size - 1, int(size * middle / whole)) if whole else 0)
        start += parameter.nbytes
    return owner
