"""The rank that a worker takes: that of the plan at the place where it was started."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from launch_builders import plan
from meshwright.cost import Mesh, Worker
from meshwright.plan import write_plan
from meshwright.run._role import Role
from meshwright.run.worker import _of_its_place


def _stored(folder: Path, hosts: str) -> Path:
    """Tensor 2 × data 2 on two hosts, rank by rank."""
    made = plan(4, hosts=("a", "b"))
    workers = tuple(
        Worker(rank=rank, host=host, device="cpu", threads=1, cores=(hosts[:rank].count(host),))
        for rank, host in enumerate(hosts)
    )
    strategy = replace(made.strategy, workers=workers, mesh=Mesh(dp_replicate=2, tp=2))
    write_plan(replace(made, strategy=strategy), folder / "plan.toml")
    return folder / "plan.toml"


@pytest.mark.parametrize(("hosts", "ranks"), [("aabb", [0, 1, 2, 3]), ("abab", [0, 2, 1, 3])])
def test_workers_take_the_ranks_of_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str, ranks: list[int]
) -> None:
    """With tensor outside, host a has the first half of the model of both data ranks: ranks 0 and 2."""
    path, found = _stored(tmp_path, hosts), []
    for place in range(4):
        monkeypatch.setenv("RANK", str(place))
        role = _of_its_place(Role(kind="run", rank=place, world_size=4, plan=path))
        assert os.environ["RANK"] == str(role.rank)
        found.append(role.rank)
    assert found == ranks


def test_without_a_plan_a_place_is_the_rank(tmp_path: Path) -> None:
    """What is wrong with a plan is said later, with a session to say it in."""
    assert _of_its_place(Role(kind="joined", rank=3, world_size=4)).rank == 3
    assert _of_its_place(Role(kind="run", rank=3, world_size=4, plan=tmp_path / "none.toml")).rank == 3
