r"""Lower bounds on a pipeline's step from its work alone, whatever its stages: what their order must leave idle.

With $W$ the work of one micro-batch on all $p$ workers together (forward and backward), $m$ micro-batches and $v$
stages for each worker:

- `1f1b`, `gpipe`: worker $r$ starts after the way to it and ends before the way back, $m x_r + \sum_{q<r} x_q \le T$,
  so that $T \ge W / (1 - (1 - 1/m)^p)$.
- `zero_bubble`: only the way there counts, of which at least a share $φ$ is forward: $T \ge φ W / (1 - (1 - φ/m)^p)$,
  with the work of any kinds of unit for $W$, and $m$ larger by what follows a unit's last backward over its work.
- `interleaved`: a path enters worker $r$ with the first micro-batch of any of its stages and leaves it with the last
  one of any. The mean over workers and stages is $T \ge m W / p + \sum_q (p - 1 - q) x_q / (v p)$; with
  $x_q \le T / m$ the sum is least where the last workers are full.

- Where workers differ, worker $r$ needs $t_{ru}$ for unit $u$: for any $y$ with $\sum_r y_r = 1$,
  $T \ge m \sum_u \min_r y_r t_{ru}$, the dual of sharing units out; here $y_r$ is $r$'s share of all workers' speed.

Each worker's loads are continuous here; `_walk` places whole units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import Form
from meshwright.units import Seconds

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Filling:
    """Some kinds of unit, by which the way to a worker is bounded.

    Args:
        share: of the forward in their work, at least.
        work: of a micro-batch on all workers together, at least (s).
        later: what follows the last backward, over their work at least.
    """

    share: float
    work: Seconds
    later: float = 0.0

    def span(self, workers: int, count: int) -> Seconds:
        """Until the last worker is done, with halves of backwards on the way back (s)."""
        return self.share * self.work / (1 - (1 - self.share / (count + self.later)) ** workers)


def least_step(
    form: Form, work: Seconds, *, ahead: Sequence[Filling], after: Seconds = 0.0, spared: Seconds = 0.0,
    waited: float = 1.0,
) -> Seconds:  # fmt: skip
    """A lower bound on a step of a pipeline, whichever units its stages have.

    Args:
        work: of a micro-batch on the fastest workers, forward and backward (s).
        ahead: of `fillings`.
        after: what follows a worker's last backward, in the mean over workers at least (s).
        spared: what of `after` rounding may spare a worker (s).
        waited: least share of filling and emptying that is waited for.
    """
    workers, count = form.num_workers, form.micro_batches
    busy = count * work / workers
    even = busy + after
    if workers == 1:
        return even
    span = busy
    if form.schedule in ("gpipe", "1f1b"):
        span = work / (1 - (1 - 1 / count) ** workers)
    if form.schedule == "zero_bubble":
        span = max((one.span(workers, count) - spared for one in ahead), default=busy)
    if form.schedule == "interleaved":
        span = work
        even = even if count % workers else _interleaved(form, work, even, waited=waited)
    return max(even, waited * span + (1 - waited) * busy)


def least_shared(times: NDArray[np.float64], workers: NDArray[np.float64], units: NDArray[np.float64]) -> Seconds:
    """A lower bound on what the busiest worker of a pipeline takes for a micro-batch, however units are shared out.

    Args:
        times: of a unit of each kind, on each kind of worker (s; `kinds units`).
        workers: how many of each kind there are.
        units: how many of each kind there are.
    """
    whole = times @ units
    if not whole.all():
        return 0.0
    speeds = 1 / whole
    shares = speeds / (workers @ speeds)
    return float((shares[:, None] * times).min(axis=0) @ units)


def may_interleave(form: Form, work: Seconds, step: Seconds, *, after: Seconds, waited: float) -> bool:
    """Whether interleaved stages may be done within a time, by the mean over all workers.

    Args:
        work: of a micro-batch on all workers together, at least (s).
        after: what follows a worker's last backward, in the mean over workers at least (s).
        waited: least share of filling and emptying that is waited for.
    """
    if form.micro_batches % form.num_workers:
        return True
    even = form.micro_batches * work / form.num_workers
    idle = work * (work * form.micro_batches / step - 1) / (2 * form.num_stages)
    return even + waited * max(0.0, idle) + after <= step * (1 + 1e-9)


def _interleaved(form: Form, work: Seconds, even: Seconds, *, waited: float) -> Seconds:
    """The root of $T = e + b W (m W / T - 1) / (2 v p)$, with an even share $e$ and a share $b$ that is waited for."""
    doubled = 2 * form.num_stages / waited
    middle = even - work / doubled
    return max(even, (middle + sqrt(middle * middle + 4 * work * work * form.micro_batches / doubled)) / 2)


def fillings(shares: Column, works: Column, later: Column | None = None) -> tuple[Filling, ...]:
    """Kinds of unit with the largest shares of forwards: one, two, up to all of them.

    Args:
        shares: of the forward in a unit of each kind, on any worker at least.
        works: of all units of each kind, for a micro-batch on any workers at least (s).
        later: what a unit adds after the last backward over what it takes, at least.
    """
    found, work, last = [], 0.0, float("inf")
    for kind in np.argsort(-shares):
        work, last = work + float(works[kind]), min(last, float(later[kind]) if later is not None else 0.0)
        if shares[kind] > 0 and work > 0:
            found.append(Filling(share=float(shares[kind]), work=work, later=max(0.0, last)))
    return tuple(found)


def least_shares(forward: Column, both: Column) -> Column:
    """The forward's share in the time of a unit of each kind, on any worker at least (`workers kinds`)."""
    return np.divide(forward, both, out=np.ones_like(both), where=both > 0).min(axis=0)


def bubble(form: Form) -> float:
    """Share of a step that equal stages wait, as its schedule's formula says; only the order of looking follows it."""
    filled = form.micro_batches * form.num_stages / form.num_workers * (3 if form.schedule == "zero_bubble" else 1)
    return (form.num_workers - 1) / filled
