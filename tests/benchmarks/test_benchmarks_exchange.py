"""What the exchange benchmark makes of its measurements."""

import pytest

from exchange import checks_of
from exchange_cells import SLOWED, Cell, Learnt, Ledger, description, steps_of
from exchange_ways import CHOICES, strategy_of


def test_steps_to_a_loss_lie_between_two_evaluations():
    """From 3.0 at 10 steps to 2.0 at 20: 2.25 after 17.5; 1.0 never."""
    learnt = Learnt(way="x", hosts="2 equal", losses=((10, 3.0), (20, 2.0)))
    assert learnt.steps_to(2.25) == 17.5
    assert learnt.steps_to(3.5) == 10
    assert learnt.steps_to(1.0) == float("inf")
    assert learnt.at(15) == 2.0


def test_hosts_share_two_cores_and_one_has_half_of_its_part():
    assert [host.cpus for host in description(2, half=False).hosts] == [1.0, 1.0]
    assert [host.cpus for host in description(4, half=True).hosts] == [0.5, 0.5, 0.5, 0.25]


def test_every_way_is_a_strategy_of_all_hosts():
    for way in CHOICES:
        strategy = strategy_of(way, shares=(9, 7), batch=16, bucket_size=2**20)
        assert strategy.num_workers == strategy.mesh.num_shares == 2
        assert strategy.batch.shares == (9, 7)


def test_local_ways_are_timed_over_whole_intervals():
    assert steps_of("local_int8", "100Mbit/s", learning=60) == CHOICES["local_int8"]["updates"].interval
    assert steps_of("ddp", "unshaped", learning=60) == 60


def _cell(way: str, *, link: str = "100Mbit/s", hosts: str = "2 equal", seconds: float, seed: int = 0) -> Cell:
    return Cell(way=way, hosts=hosts, link=link, seconds=seconds, sent=60e6 / seconds, shares=(8, 8), seed=seed)


def _learnt(way: str, *losses: float, hosts: str = "2 equal", seed: int = 0) -> Learnt:
    return Learnt(way=way, hosts=hosts, losses=tuple((10 * (n + 1), loss) for n, loss in enumerate(losses)), seed=seed)


def test_finished_runs_are_kept_and_not_run_again(tmp_path):
    path = tmp_path / "rows"
    cells, learnt = [_cell("exact", seconds=3.0)], _learnt("exact", 3.0, 2.5)
    Ledger(path).add("name", cells, learnt)
    again = Ledger(path)
    assert "name" in again
    assert "other" not in again
    assert again.of("name") == (cells, learnt)


def test_targets_are_medians_over_the_seeds():
    """DDP takes 4 s a step and exact 3, 2 and 4: 1.33, 2 and 1 times its speed. Local updates take 0.5 s and reach
    DDP's last loss, 2.0 after 20 steps, after 15 and after 20: 80 s over 7.5 s and twice over 10 s."""
    cells, learnt = [], []
    for seed, (seconds, losses) in enumerate(((3.0, (3.0, 1.0)), (2.0, (3.0, 2.0)), (4.0, (3.0, 2.0)))):
        cells += [_cell(way, seconds=time, seed=seed) for way, time in (("ddp", 4.0), ("exact", seconds))]
        cells.append(_cell("local_int8", seconds=0.5, seed=seed))
        learnt += [_learnt(way, 3.0, 2.0, seed=seed) for way in ("ddp", "exact")]
        learnt.append(_learnt("local_int8", *losses, seed=seed))
    values = {check.name: check.value for check in checks_of(cells, learnt, learning=20)}
    assert values["2 equal, 100Mbit/s, exact: speed over DDP"] == pytest.approx(4 / 3)
    assert values["2 equal, 100Mbit/s, local_int8: time to DDP's loss, times sooner than ddp, 3 seeds"] == 8.0
    assert values["2 equal, 100Mbit/s, local_int8: loss over DDP's, 3 seeds"] == 1.0
    assert values["2 equal, 100Mbit/s, local_int8: times fewer bytes"] == 0.125


def test_a_host_that_is_slowed_may_cost_the_others_a_tenth():
    cells = [
        _cell("asynchronous", link=link, hosts="4 equal", seconds=seconds)
        for link, seconds in (("unshaped", 1.0), (SLOWED, 1.05))
    ]
    (check,) = checks_of(cells, [_learnt("asynchronous", 3.0, hosts="4 equal")], learning=8)
    assert check.value == 1.05
    assert check.holds
