"""How long each stage takes for one micro-batch: what a pipeline's time line is drawn from."""

import numpy as np

from meshwright.cost._prediction import StageTime
from meshwright.cost._workload import Column
from meshwright.cost.hybrid._held import Stages
from meshwright.cost.hybrid._pieces import Pieces
from meshwright.cost.hybrid._step import StageTimes
from meshwright.units import Seconds


def stage_durations(
    stages: Stages, kinds: list[tuple[Pieces, StageTimes]], transfers: list[Seconds], *, factor: float
) -> tuple[StageTime, ...]:
    """Forward, backward and transfer of every stage.

    Args:
        stages: the units of each.
        kinds: pieces and times for every worker of the pipeline, by its place.
        transfers: over every cut (s).
        factor: by how much earlier predictions on this machine were too fast.
    """
    place = np.arange(len(stages.units)) % stages.workers

    def total(values: list[Column], units: Column) -> Column:
        return np.einsum("sk,sk->s", units, np.stack(values)[place])

    forward = total([times.forward for _, times in kinds], stages.units)
    again = total([times.forward for _, times in kinds], stages.again)
    backward = total([times.backward for _, times in kinds], stages.units) + again
    return tuple(
        StageTime(forward=factor * float(ahead), backward=factor * float(back), transfer=factor * transfer)
        for ahead, back, transfer in zip(forward, backward, [0.0, *transfers], strict=True)
    )
