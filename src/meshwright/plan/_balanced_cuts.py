"""Where to cut a chain of work so that the slowest stage is as fast as it can be: exact, by dynamic programming.

With times t, transfers c into a piece, speeds v of the workers and memory limits, the end of stage s is chosen by

    T(s, j) = min over i of max(T(s − 1, i), c_i + (t_i + … + t_{j−1}) / v_s),   stage s being pieces i … j − 1

over the i for which the stage fits its worker. Of all ways to cut that are equally fast, the one with the least
transfers is taken, and of those the one with the shorter first stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshwright.errors import DoesNotFitError
from meshwright.units import Bytes, Seconds, format_bytes

_Column = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What lies between two points at which a chain may be cut.

    Args:
        path: of the module that begins it; the stage that begins here is named by it.
        time: forward and backward of a micro-batch at speed 1 (s).
        transfer: carrying what crosses into it, and its gradient back, where a stage begins here (s).
        state: parameters, gradients and optimizer state (B).
        activations: kept from forward to backward of one micro-batch (B).
    """

    path: str
    time: Seconds
    transfer: Seconds = 0.0
    state: Bytes = 0
    activations: Bytes = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageWorker:
    """Who runs a stage.

    Args:
        speed: relative to that at which pieces were timed.
        memory: that the stage may use (B).
        in_flight: micro-batches whose activations it keeps at once.
    """

    speed: float = 1.0
    memory: float = float("inf")
    in_flight: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """Stages, and how well they are balanced.

    Args:
        cuts: path at which each stage but the first begins.
        times: of each stage with its transfer (s).
        memory: of each stage (B).
    """

    cuts: tuple[str, ...]
    times: tuple[Seconds, ...]
    memory: tuple[float, ...]

    @property
    def slowest(self) -> Seconds:
        """Time of the slowest stage for a micro-batch (s)."""
        return max(self.times)


def balanced_cuts(pieces: Sequence[Piece], workers: Sequence[StageWorker]) -> Balance:
    """The cuts that make the slowest stage fastest.

    Args:
        pieces: in the order of execution.
        workers: one for each stage, in order.

    Raises:
        DoesNotFitError: no way to cut fits all limits, or there are fewer pieces than stages.
    """
    if len(pieces) < len(workers):
        raise DoesNotFitError(
            f"{len(workers)} stages cannot be made of {len(pieces)} pieces",
            cause="a stage has at least one piece between two points at which the model can be cut",
            alternatives=[f"at most {len(pieces)} stages"],
        )
    costs = [_costs(pieces, worker, first=number == 0) for number, worker in enumerate(workers)]
    slowest = _fastest(costs)
    if not np.isfinite(slowest):
        raise _too_large(pieces, workers)
    starts = _least_transfers(costs, slowest, np.array([piece.transfer for piece in pieces]))
    ends = [*starts[1:], len(pieces)]
    return Balance(
        cuts=tuple(pieces[start].path for start in starts[1:]),
        times=tuple(
            float(costs[stage][start, end]) for stage, (start, end) in enumerate(zip(starts, ends, strict=True))
        ),
        memory=tuple(
            _memory(pieces[start:end], worker) for start, end, worker in zip(starts, ends, workers, strict=True)
        ),
    )


def _costs(pieces: Sequence[Piece], worker: StageWorker, *, first: bool) -> _Column:
    """Time of a stage of pieces i … j − 1 on a worker in row i and column j; infinite where it does not fit."""
    times = _sums([piece.time / worker.speed for piece in pieces])
    memory = _sums([piece.state + worker.in_flight * piece.activations for piece in pieces])
    transfers = np.array([0.0 if first else piece.transfer for piece in pieces] + [0.0])
    costs = times[None, :] - times[:, None] + transfers[:, None]
    places = np.arange(len(pieces) + 1)
    illegal = (places[None, :] <= places[:, None]) | (memory[None, :] - memory[:, None] > worker.memory * (1 + 1e-12))
    return np.where(illegal, np.inf, costs)


def _sums(values: Sequence[float]) -> _Column:
    return np.concatenate([[0.0], np.cumsum(np.array(values, dtype=np.float64))])


def _fastest(costs: Sequence[_Column]) -> float:
    best = costs[0][0]
    for stage in costs[1:]:
        best = np.maximum(best[:, None], stage).min(axis=0)
    return float(best[-1])


def _least_transfers(costs: Sequence[_Column], slowest: float, transfers: _Column) -> list[int]:
    """First piece of every stage, no stage slower than the slowest has to be."""
    allowed = slowest * (1 + 1e-12)
    entering = np.append(transfers, 0.0)
    best = np.where(costs[0][0] <= allowed, 0.0, np.inf)
    chosen = []
    for stage in costs[1:]:
        total = np.where(stage <= allowed, (best + entering)[:, None], np.inf)
        chosen.append(total.argmin(axis=0))
        best = total.min(axis=0)
    starts, place = [], len(entering) - 1
    for choice in reversed(chosen):
        place = int(choice[place])
        starts.append(place)
    return [0, *reversed(starts)]


def _memory(pieces: Sequence[Piece], worker: StageWorker) -> float:
    return float(sum(piece.state + worker.in_flight * piece.activations for piece in pieces))


def _too_large(pieces: Sequence[Piece], workers: Sequence[StageWorker]) -> DoesNotFitError:
    largest = max(range(len(pieces)), key=lambda place: pieces[place].state + pieces[place].activations)
    needed = sum(piece.state for piece in pieces)
    return DoesNotFitError(
        f"no {len(workers)} stages fit: parameters, gradients and optimizer state are {format_bytes(needed)}, and "
        f"the workers have {format_bytes(sum(worker.memory for worker in workers))}",
        cause=f"the largest piece begins at {pieces[largest].path} and takes {format_bytes(pieces[largest].state)} and "
        f"{format_bytes(pieces[largest].activations)} for each micro-batch in flight",
        alternatives=[
            "more stages",
            "smaller micro-batches",
            "recompute blocks",
            "split parameters with tp or dp_shard",
        ],
    )
