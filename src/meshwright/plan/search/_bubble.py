r"""Lower bounds on a pipeline's step from its work alone, whatever its stages: what their order must leave idle.

With $W$ the work of one micro-batch on all $p$ workers together (forward and backward), $m$ micro-batches and $v$
stages for each worker:

- `1f1b`, `gpipe`: worker $r$ starts after the way to it and ends before the way back, $m x_r + \sum_{q<r} x_q \le T$,
  so that $T \ge W / (1 - (1 - 1/m)^p)$.
- `zero_bubble`: only the way there counts, of which at least a share $φ$ is forward: $T \ge φ W / (1 - (1 - φ/m)^p)$.
- `interleaved`: a path enters worker $r$ with the first micro-batch of any of its stages and leaves it with the last
  one of any. The mean over workers and stages is $T \ge m W / p + \sum_q (p - 1 - q) x_q / (v p)$; with
  $x_q \le T / m$ the sum is least where the last workers are full.

- Where workers differ, worker $r$ needs $t_{ru}$ for unit $u$: for any $y$ with $\sum_r y_r = 1$,
  $T \ge m \sum_u \min_r y_r t_{ru}$, the dual of sharing units out; here $y_r$ is $r$'s share of all workers' speed.

Each worker's loads are continuous here; `_walk` places whole units.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.hybrid import Form
from meshwright.units import Seconds


def least_step(form: Form, work: Seconds, *, ahead: float, after: Seconds = 0.0) -> Seconds:
    """A lower bound on the span of a pipeline, whichever units its stages have.

    Args:
        work: of a micro-batch on the fastest workers, forward and backward (s).
        ahead: least share of the forward in any unit's work.
        after: what follows a worker's last backward, in the mean over workers at least (s).
    """
    workers, count = form.num_workers, form.micro_batches
    even = count * work / workers + after
    if workers == 1:
        return even
    if form.schedule in ("gpipe", "1f1b"):
        return max(even, work / (1 - (1 - 1 / count) ** workers))
    if form.schedule == "zero_bubble":
        return max(even, ahead * work / (1 - (1 - ahead / count) ** workers) if ahead else 0.0)
    if form.schedule == "interleaved":
        return max(even, work) if count % workers else max(work, _interleaved(form, work, even))
    return even


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


def may_interleave(form: Form, work: Seconds, step: Seconds, *, after: Seconds) -> bool:
    """Whether interleaved stages may be done within a time, by the mean over all workers.

    Args:
        work: of a micro-batch on all workers together, at least (s).
        after: what follows a worker's last backward, in the mean over workers at least (s).
    """
    if form.micro_batches % form.num_workers:
        return True
    even = form.micro_batches * work / form.num_workers
    idle = work * (work * form.micro_batches / step - 1) / (2 * form.num_stages)
    return even + max(0.0, idle) + after <= step * (1 + 1e-9)


def _interleaved(form: Form, work: Seconds, even: Seconds) -> Seconds:
    """The root of $T = e + W (m W / T - 1) / (2 v p)$, with an even share $e$."""
    doubled = 2 * form.num_stages
    middle = even - work / doubled
    return max(even, (middle + sqrt(middle * middle + 4 * work * work * form.micro_batches / doubled)) / 2)


def least_share(forward: NDArray[np.float64], both: NDArray[np.float64]) -> float:
    """Least share of the forward in any unit's time."""
    there = both > 0
    return float((forward[there] / both[there]).min()) if there.any() else 0.0
