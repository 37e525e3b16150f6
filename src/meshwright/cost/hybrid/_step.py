"""The time of a hybrid strategy's step: units' times make stages, stages a pipeline, and then gradients and updates."""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._prediction import TimeBreakdown
from meshwright.cost._workload import Column
from meshwright.cost.accelerator import Habits, Slowdown, beside, together
from meshwright.cost.hybrid._data_exchange import Shards
from meshwright.cost.hybrid._exchanges import Exchanges, UnitExchange
from meshwright.cost.hybrid._held import Stages
from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._pieces import Pieces
from meshwright.cost.hybrid._pipeline_time import spans
from meshwright.units import BytesPerSecond, Seconds

# The step engine's own Python for one micro-batch (as in `_pricing`).
ENGINE: Seconds = 9e-6
# Kernels of a layer with a gate and rotary positions, forward and backward, as counted in its capture: what a
# framework's time for a layer was fitted to.
LAYER_LAUNCHES = 59.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """One micro-batch on every kind of unit and stage.

    Args:
        forward: of each kind of unit, with its exchange (s).
        backward: of each kind of unit, with its exchange, without recomputation (s).
        exposed_forward: exchange in `forward` that nothing hides (s).
        exposed_backward: exchange in `backward` that nothing hides (s).
        launching: of both, what the device waits for its host (s).
    """

    forward: Column
    backward: Column
    exposed_forward: Column
    exposed_backward: Column
    launching: Column

    @property
    def ahead(self) -> Column:
        """Of `forward`, what is not waiting for the host (s)."""
        both = self.forward + self.backward
        return self.forward * (1 - np.divide(self.launching, both, out=np.zeros_like(both), where=both > 0))


def unit_times(
    exchanges: Exchanges,
    listed: tuple[UnitExchange, ...],
    pieces: Pieces,
    *,
    shards: Shards | None = None,
    host: Seconds = 0.0,
    way: BytesPerSecond = float("inf"),
) -> StageTimes:
    """What a micro-batch takes on one unit of each kind, collectives included.

    Args:
        shards: what exchanging parameters and gradients in shards takes; None: nothing is in shards.
        host: its time to launch as many kernels as a layer has (s).
        way: speed between device and host, of what is saved there (B/s); computing waits for it, there and back.
    """
    exposed_forward, exposed_backward = pieces.away / way, pieces.away / way
    for item in listed:
        hidden = pieces.attention if item.hideable else 0.0
        exposed_forward = exposed_forward + np.maximum(0.0, item.waited_forward - hidden)
        exposed_backward = exposed_backward + np.maximum(0.0, item.waited_backward - 2 * hidden)
    if shards is not None:
        forward, backward = pieces.forward + exposed_forward, pieces.backward + exposed_backward
        both = shards.gathered + shards.scattered
        exposed_forward = (
            exposed_forward + shards.gathering + _beside(exchanges, shards.gathered, forward, shards.slowdown)
        )
        exposed_backward = (
            exposed_backward
            + shards.gathering
            + shards.scattering
            + _beside(exchanges, both, backward, shards.slowdown)
        )
    forward, backward = pieces.forward + exposed_forward, pieces.backward + exposed_backward
    device = np.maximum(forward + backward, 1e-12)
    slower = together(device, host * pieces.launches / LAYER_LAUNCHES) / device if host else np.ones_like(device)
    return StageTimes(
        forward=forward * slower,
        backward=backward * slower,
        exposed_forward=exposed_forward,
        exposed_backward=exposed_backward,
        launching=(forward + backward) * (slower - 1),
    )


def _beside(exchanges: Exchanges, exchange: Column, computing: Column, slowdown: Slowdown) -> Column:
    if exchanges.habits is None:
        return np.maximum(0.0, exchange - computing)
    return beside(exchange, computing, exchanges.habits, slowdown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A pipeline's run through all micro-batches, before gradients are exchanged.

    Args:
        ends: when each worker has done its last backward (s).
        forward: computing of each worker (s).
        backward: likewise, without recomputation.
        recompute: likewise.
        exposed: exchange in them that nothing hides (s).
        launching: what the device waits for its host in them (s).
        last: the last micro-batch's backward on each worker (s).
    """

    ends: tuple[Seconds, ...]
    forward: Column
    backward: Column
    recompute: Column
    exposed: Column
    launching: Column
    last: Column


def run_of(
    layout: Layout,
    stages: Stages,
    kinds: list[tuple[Pieces, StageTimes]],
    transfers: list[Seconds],
    *,
    habits: Habits | None = None,
) -> Run:
    """Runs the micro-batches through the stages.

    Args:
        kinds: pieces and times for every worker of the pipeline, by its place.
        transfers: over every cut (s).
        habits: which share of a transfer, and of filling and emptying, is waited for; None: what the schedule says.
    """
    workers, count = stages.workers, layout.micro_batches
    alike = {id(one): one for one in kinds}  # workers of a kind share theirs
    which = np.array([list(alike).index(id(one)) for one in kinds]) if len(alike) > 1 else np.zeros(workers, np.intp)
    place, kinds = which[np.arange(len(stages.units)) % workers], list(alike.values())

    def total(values: list[Column], units: Column) -> Column:
        return np.einsum("sk,sk->s", units, np.stack(values)[place])

    forward = total([times.forward for _, times in kinds], stages.units)
    again = total([times.forward for _, times in kinds], stages.again)
    backward = total([times.backward for _, times in kinds], stages.units)
    hidden_again = total([times.exposed_forward for _, times in kinds], stages.again)
    exposed = total([times.exposed_forward + times.exposed_backward for _, times in kinds], stages.units)
    computing = total([pieces.forward for pieces, _ in kinds], stages.units)
    differentiating = total([pieces.backward for pieces, _ in kinds], stages.units)
    launching = total([times.launching for _, times in kinds], stages.units)
    sending = np.zeros(len(forward))
    if habits is not None and transfers:
        # Both neighbours wait for a message: a stage's activations come and go, and so do its gradients.
        carried = habits.send * np.array(transfers)
        sending[1:] += carried / 2
        sending[:-1] += carried / 2
        transfers = [0.0] * len(transfers)
    ends = spans(layout.form, (forward + sending).tolist(), (backward + again + sending).tolist(), transfers)
    if habits is not None and workers > 1:
        busy = count * float(stages.per_worker(forward + backward + again + 2 * sending).max())
        ends = tuple(end + (habits.bubble - 1) * max(0.0, end - busy) for end in ends)
    return Run(
        ends=ends,
        forward=count * stages.per_worker(computing),
        backward=count * stages.per_worker(differentiating),
        recompute=count * stages.per_worker(again - hidden_again),
        exposed=count * stages.per_worker(exposed + hidden_again + 2 * sending),
        launching=count * stages.per_worker(launching),
        last=stages.per_worker(backward + again),
    )


def broken_down(
    run: Run, rank: int, *, end: Seconds, exposed: Seconds, optimizer: Seconds, overhead: Seconds, factor: float
) -> TimeBreakdown:
    """Where the time of the worker that ends last goes; what nothing accounts for is waiting.

    Args:
        end: of the step (s).
        exposed: exchange after its last backward (s).
        factor: correction of every item.
    """
    launching = float(run.launching[rank])
    busy = float(run.forward[rank] + run.backward[rank] + run.recompute[rank] + run.exposed[rank]) + launching
    return TimeBreakdown(
        forward=factor * float(run.forward[rank]),
        backward=factor * float(run.backward[rank]),
        recompute=factor * float(run.recompute[rank]),
        optimizer=factor * optimizer,
        communication=factor * (float(run.exposed[rank]) + exposed),
        waiting=factor * max(0.0, end - busy - exposed - optimizer - overhead),
        overhead=factor * (overhead + launching),
    )
