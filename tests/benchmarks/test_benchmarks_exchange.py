"""What the exchange benchmark makes of its measurements."""

from dataclasses import replace
from typing import Any

import pytest

from exchange_cells import GROUPS, LINKS, SLOWED, Cell, Learnt, Ledger, Run, description
from exchange_orders import INTERVAL, Answer, read_answer, read_orders, write_answer, write_orders
from exchange_rivals import obstacle
from exchange_targets import Curves, checks_of
from exchange_ways import CHOICES, PACKAGES, RIVALS, strategy_of


def test_steps_to_a_loss_lie_between_two_evaluations():
    """From 3.0 at 10 steps to 2.0 at 20: 2.25 after 17.5; 1.0 never."""
    learnt = Learnt(way="x", hosts="2 equal", losses=((10, 3.0), (20, 2.0)))
    assert learnt.steps_to(2.25) == 17.5
    assert learnt.steps_to(3.5) == 10
    assert learnt.steps_to(1.0) == float("inf")
    assert learnt.at(15) == 2.0


def test_hosts_share_two_cores_and_one_has_half_of_its_part():
    assert [host.cpus for host in description(2, is_half=False).hosts] == [1.0, 1.0]
    assert [host.cpus for host in description(4, is_half=True).hosts] == [0.5, 0.5, 0.5, 0.25]


def test_every_way_is_a_strategy_of_all_hosts():
    for way in CHOICES:
        strategy = strategy_of(way, shares=(9, 7), batch=16, bucket_size=2**20)
        assert strategy.num_workers == strategy.mesh.num_shares == 2
        assert strategy.batch.shares == (9, 7)


@pytest.mark.parametrize("way", ["local_int8", *PACKAGES])
def test_ways_that_train_apart_are_timed_over_whole_intervals_and_learn_two_more(way):
    run = Run(group=GROUPS["two"], way=way, rate=1e-3, links=LINKS)
    assert [phase.steps for phase in run.order.phases] == ([64] * 3 if way == "hivemind" else [32, 16, 16])
    (phase,) = replace(run, links=LINKS[:1], learning=96).order.phases
    assert phase.steps == 128


def test_local_ways_meet_when_rivals_do():
    assert CHOICES["local_int8"]["updates"].interval == INTERVAL == 16


def test_rivals_of_other_packages_are_compared_wherever_an_interpreter_has_them(tmp_path):
    for way, package in PACKAGES.items():
        assert way in RIVALS
        assert way in GROUPS["two"].ways
        assert way in GROUPS["two"].learning
        assert f"no interpreter was named that has {package}: --rivals-python" in obstacle(way, None)
        assert "No such file" in obstacle(way, tmp_path / "python")
    empty = tmp_path / "empty"
    empty.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named hivemind' >&2\nexit 1\n")
    empty.chmod(0o755)
    assert obstacle("hivemind", empty).endswith("No module named hivemind")


def test_orders_and_answers_pass_through_files(tmp_path):
    orders = [
        Run(group=GROUPS[name], way=way, rate=2e-3, links=("unshaped",)).order
        for name, way in (("half", "exact"), ("slowed", "asynchronous"))
    ]
    write_orders(tmp_path / "orders.json", orders)
    assert read_orders(tmp_path / "orders.json") == orders
    answer = Answer(
        seconds=((0.5, 0.25), (1.0,)), speeds=((2.0, 4.0), (1.0, 0.5)), losses=((16, 2.5),), shares=(9, 7),
        gradient_error=1e-7,
    )  # fmt: skip
    write_answer(tmp_path / "0.json", answer)
    assert read_answer(tmp_path / "0.json") == answer


def _cell(way: str, *, link: str = "100Mbit/s", hosts: str = "2 equal", seconds: float, **more: Any) -> Cell:
    return Cell(way=way, hosts=hosts, link=link, seconds=seconds, sent=60e6 / seconds, shares=(8, 8), **more)


def _learnt(way: str, *losses: float, **more: Any) -> Learnt:
    return Learnt(way=way, hosts="2 equal", losses=tuple((10 * (n + 1), loss) for n, loss in enumerate(losses)), **more)


def test_finished_runs_are_kept_and_not_run_again(tmp_path):
    path = tmp_path / "rows"
    cells, learnt = [_cell("exact", seconds=3.0)], _learnt("exact", 3.0, 2.5)
    Ledger(path).add("name", cells, learnt)
    again = Ledger(path)
    assert "name" in again
    assert "other" not in again
    assert again.of("name") == (cells, learnt)


def test_every_way_is_judged_at_the_rate_that_the_first_seed_did_best_with():
    """2e-3 ends lower with seed 0, whatever the other rate would have done with seed 1."""
    learnt = (
        _learnt("x", 3.0, 2.5), _learnt("x", 3.0, 2.2, rate=2e-3),
        _learnt("x", 3.0, 2.3, rate=2e-3, seed=1), _learnt("x", 1.0, 1.0, seed=1),
    )  # fmt: skip
    curves = Curves(learnt=learnt, steps=20)
    assert curves.rate("2 equal", "x") == 2e-3
    assert curves.best("2 equal", "x") == {0: learnt[1], 1: learnt[2]}


def test_targets_are_medians_over_the_seeds():
    """DDP takes 4 s a step, 20 to 2.0: 80 s; PowerSGD 1 s and never has that loss. Local updates of 0.5 s have it after
    15, 20 and 20 steps: 10 s in the middle."""
    times = {"ddp": 4.0, "ddp_powersgd": 1.0, "exact": 3.0, "local_int8": 0.5}
    cells = [_cell(way, seconds=seconds) for way, seconds in times.items()]
    learnt = []
    for seed, losses in enumerate(((3.0, 1.0), (3.0, 2.0), (3.0, 2.0))):
        learnt += [_learnt("ddp", 3.0, 2.0, seed=seed), _learnt("ddp_powersgd", 3.0, 2.5, seed=seed)]
        learnt.append(_learnt("local_int8", *losses, seed=seed))
    values = {check.name: check.value for check in checks_of(cells, Curves(learnt=tuple(learnt), steps=20))}
    local = "2 equal, 100Mbit/s, local_int8"
    assert values["2 equal, 100Mbit/s, exact: speed over DDP"] == pytest.approx(4 / 3)
    assert values[f"{local}: time to DDP's loss, times sooner than ddp, 3 seeds"] == 8.0
    assert values[f"{local}: time to DDP's loss over that of the fastest of ddp, ddp_powersgd"] == 0.125
    assert values[f"{local}: loss over DDP's after 20 steps, 3 seeds"] == 1.0
    assert values[f"{local}: times fewer bytes"] == 0.125


def test_a_host_that_is_slowed_may_cost_the_others_a_tenth():
    cells = [
        _cell("asynchronous", link=link, hosts="4 equal", seconds=seconds)
        for link, seconds in (("unshaped", 1.0), (SLOWED, 1.05))
    ]
    (check,) = checks_of(cells, Curves(learnt=(), steps=8))
    assert check.value == 1.05
    assert check.holds


def test_losses_on_shaped_links_have_to_be_those_that_were_followed():
    followed = Curves(learnt=(_learnt("local", 3.0, 2.0),), steps=20)
    for loss, holds in ((2.0, True), (2.01, False)):
        (check,) = checks_of([], followed, timed=[_learnt("local", 3.0, loss), _learnt("ddp", 1.0)])
        assert check.holds is holds
    anytime = Curves(learnt=(_learnt("hivemind", 3.0, 2.0),), steps=20)
    assert not checks_of([], anytime, timed=[_learnt("hivemind", 3.0, 2.5)]), "when it meets depends on the link"


def test_a_gradient_apart_from_one_devices_is_a_failure_of_ours():
    cells = [_cell(way, hosts="4, one half", seconds=1.0, gradient_error=1e-3) for way in ("ddp", "exact")]
    (check,) = checks_of(cells, Curves(learnt=(), steps=8))
    assert not check.holds
