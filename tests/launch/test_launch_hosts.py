"""Several hosts: where they meet, and who runs how many workers."""

import socket
from dataclasses import replace

import pytest

from launch_builders import cluster, plan
from meshwright.errors import PlanError, UsageError, WorkerError
from meshwright.launch import Hosts, check_devices, check_port, parse_rendezvous, spread_over
from meshwright.launch._hosts import workers_per_host


def test_a_rendezvous_is_a_host_and_a_port() -> None:
    assert parse_rendezvous("first:29500") == ("first", 29500)
    assert parse_rendezvous("[fe80::1]:80") == ("fe80::1", 80)


@pytest.mark.parametrize("text", ["first", "first:", ":29500", "first:port", "first:0", "first:70000"])
def test_anything_else_is_not(text: str) -> None:
    with pytest.raises(UsageError, match="is no rendezvous"):
        parse_rendezvous(text)


def test_each_host_runs_the_workers_that_the_plan_names_for_it() -> None:
    assert workers_per_host(plan(4, hosts=("a", "b")), num_hosts=2) == (2, 2)
    assert workers_per_host(plan(3, hosts=("a", "b")), num_hosts=2) == (2, 1)


def test_a_host_that_the_plan_does_not_need_runs_none() -> None:
    assert workers_per_host(plan(2), num_hosts=3) == (2, 0, 0)


def test_a_plan_of_more_hosts_than_there_are_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan puts 4 workers on 2 hosts, and 1 were started"):
        workers_per_host(plan(4, hosts=("a", "b")), num_hosts=1)


def test_a_plan_for_devices_that_are_not_there_is_refused() -> None:
    made = plan(2)
    on_gpus = tuple(replace(worker, device=f"cuda:{worker.rank}") for worker in made.strategy.workers)
    elsewhere = replace(made, strategy=replace(made.strategy, workers=on_gpus), cluster="h100:2")
    check_devices(made, cluster())
    with pytest.raises(PlanError, match=r"2 workers on devices of kind cuda, and .* has cpu") as caught:
        check_devices(elsewhere, cluster())
    assert caught.value.cause == "it was made for h100:2"


def test_one_measured_host_stands_for_equal_ones() -> None:
    assert spread_over(cluster(cores=2), num_hosts=4).num_cores == 8
    assert spread_over(cluster(), num_hosts=1) == cluster()


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(WorkerError) as caught:
            check_port(Hosts(count=2, rank=0, address="localhost", port=port))
        check_port(Hosts(count=2, rank=1, address="localhost", port=port))
    assert str(caught.value) == (
        f"port {port} cannot be used: Address already in use\n"
        "  because: host 0 listens there for the others; another program, or a run that has not ended, has it\n"
        "  instead: another port, the same on every host: --rendezvous HOST:PORT\n"
        f"  next:    ss -ltnp 'sport = :{port}'"
    )
