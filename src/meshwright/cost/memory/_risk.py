r"""Will it fit? The probability that a predicted peak is too large for a device.

Measured runs with the same predicted share $x$ of a device's memory fail the more often the larger $x$ is; with a
logarithmic normal error the probability is $\Phi(\ln(x / l) / \sigma)$, where $l$ is the share at which half fail. It
lies below 1 because a context, other libraries and gaps take what the prediction does not count.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import erf, exp, log, sqrt

from meshwright.cost.memory._arrangement import Arrangement
from meshwright.cost.memory._content import StageContent
from meshwright.cost.memory._conventions import Backlog, Conventions, conventions
from meshwright.cost.memory._stage import StageMemory, stage_memories
from meshwright.hardware import Device
from meshwright.units import Bytes

# Quantile of the normal distribution below which a tenth lies: plans may run out of memory in one of ten cases.
_TENTH = -1.2816


def failure_probability(peak: Bytes, capacity: Bytes, own: Conventions) -> float:
    """Probability that a worker of this predicted peak runs out of memory (0 to 1).

    Args:
        peak: predicted (B).
        capacity: of the device (B).
    """
    if peak <= 0:
        return 0.0
    distance = log(peak / capacity / own.limit) / own.limit_spread
    return 0.5 * (1 + erf(distance / sqrt(2)))


def stages_on(
    capacity: Bytes, contents: Sequence[StageContent], arrangement: Arrangement, own: Conventions
) -> tuple[StageMemory, ...]:
    """Every pipeline worker's peak on devices of this memory.

    Temporaries that wait for other streams are there as long as there is room for them. Where there is not, the
    allocator waits until they are free, and so does the host, which is then no longer ahead.

    Args:
        capacity: of a device (B).
    """
    stages = stage_memories(contents, arrangement, own)
    alone = stage_memories(contents, arrangement, replace(own, backlog=Backlog()))
    return tuple(one if one.memory.peak <= capacity else other for one, other in zip(stages, alone, strict=True))


def needed_peak(contents: Sequence[StageContent], arrangement: Arrangement, own: Conventions) -> Bytes:
    """What the fullest pipeline worker cannot do without (B).

    Temporaries that only wait for another stream are not among it: before a run fails, the allocator waits for them.
    """
    without = replace(own, backlog=Backlog())
    return fullest(stage_memories(contents, arrangement, without)).memory.peak


def usable_memory(device: Device) -> Bytes:
    """What a captured program's predicted peak may be on a device: it runs out in at most a tenth of the cases.

    A processor's memory may be used whole: its predictions count the allocator's gaps, and there it is not the end of a
    run when they are exceeded.
    """
    if device.kind == "cpu":
        return device.memory
    own = conventions("meshwright")
    return round(device.memory * own.limit * exp(_TENTH * own.limit_spread))


def fullest(stages: Sequence[StageMemory]) -> StageMemory:
    """The pipeline worker that holds most."""
    return max(stages, key=lambda item: item.memory.peak)
