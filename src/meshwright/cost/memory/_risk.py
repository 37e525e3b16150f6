r"""Will it fit? The probability that a predicted peak is too large for a device.

Measured runs with the same predicted share $x$ of a device's memory fail the more often the larger $x$ is; with a
logarithmic normal error the probability is $\Phi(\ln(x / l) / \sigma)$, where $l$ is the share at which half fail. It
lies below 1 because a context, other libraries and gaps take what the prediction does not count.
"""

from collections.abc import Sequence
from math import erf, log, sqrt

from meshwright.cost.memory._conventions import Conventions
from meshwright.cost.memory._stage import StageMemory
from meshwright.units import Bytes


def failure_probability(peak: Bytes, capacity: Bytes, conventions: Conventions) -> float:
    """Probability that a worker of this predicted peak runs out of memory (0 to 1).

    Args:
        peak: predicted (B).
        capacity: of the device (B).
    """
    if peak <= 0:
        return 0.0
    distance = log(peak / capacity / conventions.limit) / conventions.limit_spread
    return 0.5 * (1 + erf(distance / sqrt(2)))


def fullest(stages: Sequence[StageMemory]) -> StageMemory:
    """The pipeline worker that holds most."""
    return max(stages, key=lambda item: item.memory.peak)
