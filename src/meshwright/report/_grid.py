"""The workers laid out by the axes of their mesh, for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from meshwright.cost import Strategy, Worker
from meshwright.units import Bytes, format_bytes

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
MOST_CELLS = 256
MOST_FULL_CELLS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One worker of the grid: its rank, and what it is and holds, as short texts.

    Args:
        rank: its number.
        place: host and device.
        details: threads and cores, share of the batch, peak memory.
        fill: peak memory over the limit (0 to 1); 0 where either is unknown.
    """

    rank: int
    place: str
    details: tuple[str, ...]
    fill: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Workers in rows.

    Args:
        across: axis that runs along a row; empty for a single worker.
        rows: label (coordinates of the other axes) and cells.
        compact: whether there are too many to show more than ranks.
        hidden: workers that are not shown.
    """

    across: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    compact: bool
    hidden: int


def grid(strategy: Strategy, *, memory: Sequence[Bytes], limit: Bytes) -> Grid:
    """The grid of a strategy's workers; ranks lie in row-major order of the axes, as in a DeviceMesh.

    Args:
        strategy: whose workers.
        memory: measured peak by rank (B); may be empty.
        limit: what a worker may use (B); 0: unknown.
    """
    axes = [axis for axis in AXES if getattr(strategy.mesh, axis) > 1] or ["dp_replicate"]
    sizes = [getattr(strategy.mesh, axis) for axis in axes]
    width = sizes[-1]
    shown = strategy.workers[:MOST_CELLS]
    cells = [_cell(worker, strategy, memory=memory, limit=limit) for worker in shown]
    rows = tuple(
        (_label(axes[:-1], sizes[:-1], start // width), tuple(cells[start : start + width]))
        for start in range(0, len(cells), width)
    )
    return Grid(
        across=axes[-1] if strategy.num_workers > 1 else "",
        rows=rows,
        compact=len(cells) > MOST_FULL_CELLS,
        hidden=strategy.num_workers - len(shown),
    )


def _label(axes: Sequence[str], sizes: Sequence[int], index: int) -> str:
    strides = [prod(sizes[place + 1 :]) for place in range(len(sizes))]
    places = zip(axes, sizes, strides, strict=True)
    return " · ".join(f"{axis} {index // stride % size}" for axis, size, stride in places)


def _cell(worker: Worker, strategy: Strategy, *, memory: Sequence[Bytes], limit: Bytes) -> Cell:
    details = []
    if worker.device == "cpu":
        cores = f" on core{'s' if len(worker.cores) > 1 else ''} {_ranges(worker.cores)}" if worker.cores else ""
        details.append(f"{worker.threads} thread{'s' if worker.threads > 1 else ''}{cores}")
    shares = strategy.batch.shares
    mesh = strategy.mesh
    share = worker.rank // (mesh.cp * mesh.tp) % mesh.num_shares
    if share < len(shares):
        examples = strategy.batch.size * shares[share] / (sum(shares) or 1)
        details.append(f"{examples:g} of {strategy.batch.size} examples")
    peak = memory[worker.rank] if worker.rank < len(memory) else 0
    if peak:
        details.append(f"{format_bytes(peak)} peak")
    return Cell(
        rank=worker.rank,
        place=f"{worker.host} · {worker.device}",
        details=tuple(details),
        fill=min(1.0, peak / limit) if limit > 0 else 0.0,
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as a person writes them: `0, 1, 2, 5` → `0–2, 5`."""
    ordered = sorted(numbers)
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
