"""Which worker keeps the optimizer's state of which parameter."""

from collections.abc import Sequence

from meshwright.units import Bytes


def owners(sizes: Sequence[Bytes], num_workers: int) -> list[int]:
    """Gives each parameter to a worker, in consecutive runs of about equal bytes.

    Runs, because gradients of neighbours are complete at about the same time and travel together.

    Args:
        sizes: of the parameters (B); 0 for one without state.
        num_workers: among how many they are shared out.

    Returns:
        A worker for each parameter.
    """
    whole = max(1, sum(sizes))
    chosen, start = [], 0
    for size in sizes:
        middle = start + size / 2
        chosen.append(min(num_workers - 1, int(num_workers * middle / whole)))
        start += size
    return chosen
