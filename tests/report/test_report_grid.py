"""The grid of workers."""

import report_builders as build

from meshwright.cost import Batch, Mesh, Strategy, Worker
from meshwright.report._grid import grid
from meshwright.units import MIB


def _gpus(mesh: Mesh, *, shares: int) -> Strategy:
    workers = tuple(
        Worker(rank=rank, host=f"node{rank // 8}", device=f"cuda:{rank % 8}", threads=1)
        for rank in range(mesh.num_workers)
    )
    return Strategy(workers=workers, mesh=mesh, batch=Batch(size=64, shares=(1,) * shares))


def test_two_processes_lie_side_by_side_with_cores_share_and_memory() -> None:
    found = grid(build.strategy(), memory=(400 * MIB, 100 * MIB), limit=800 * MIB)
    assert found.across == "dp_replicate"
    ((label, cells),) = found.rows
    assert label == ""
    assert [cell.fill for cell in cells] == [0.5, 0.125]
    assert cells[1].details == ("1 thread on core 1", "16 of 32 examples", "100.00 MiB peak")


def test_unequal_shares_are_shown_as_examples() -> None:
    strategy = build.strategy(batch=Batch(size=30, shares=(2, 1)))
    cells = grid(strategy, memory=(), limit=0).rows[0][1]
    assert [cell.details[1] for cell in cells] == ["20 of 30 examples", "10 of 30 examples"]


def test_axes_are_laid_out_row_major_with_the_last_one_along_the_row() -> None:
    """pp 2 × dp_shard 2 × tp 4: rank = 8 pp + 4 dp_shard + tp."""
    found = grid(_gpus(Mesh(pp=2, dp_shard=2, tp=4), shares=2), memory=(), limit=0)
    assert found.across == "tp"
    assert [label for label, _ in found.rows] == [
        "pp 0 · dp_shard 0", "pp 0 · dp_shard 1", "pp 1 · dp_shard 0", "pp 1 · dp_shard 1",
    ]  # fmt: skip
    assert [cell.rank for cell in found.rows[2][1]] == [8, 9, 10, 11]
    assert found.rows[2][1][0].place == "node1 · cuda:0"
    assert found.rows[3][1][0].details == ("32 of 64 examples",)


def test_a_large_cluster_is_compact_and_says_what_it_hides() -> None:
    found = grid(_gpus(Mesh(dp_shard=512), shares=512), memory=(), limit=0)
    assert found.compact
    assert sum(len(cells) for _, cells in found.rows) == 256
    assert found.hidden == 256


def test_cores_are_written_as_ranges() -> None:
    worker = Worker(rank=0, host="h", device="cpu", threads=5, cores=(0, 1, 2, 5, 7))
    found = grid(Strategy(workers=(worker,), batch=Batch(size=8, shares=(1,))), memory=(), limit=0)
    assert found.across == ""
    assert found.rows[0][1][0].details[0] == "5 threads on cores 0–2, 5, 7"
