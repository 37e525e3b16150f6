"""Which entry of a cluster a worker's host belongs to."""

from dataclasses import replace

import pytest

from meshwright.cost import Worker
from meshwright.cost._pricing import find_host, host_names
from meshwright.errors import PlanError
from meshwright.hardware import parse_cluster


def test_every_name_of_several_hosts_is_found_and_no_other() -> None:
    cluster = parse_cluster("h100:8x12")
    (host,) = cluster.hosts
    for name in host_names(host):
        assert find_host(cluster, Worker(rank=0, host=name, device="cuda:0", threads=1)) is host
    for name in (host.name, f"{host.name}-12", f"{host.name}-01", f"{host.name}-", "other-3"):
        with pytest.raises(PlanError, match="does not have"):
            find_host(cluster, Worker(rank=0, host=name, device="cuda:0", threads=1))


def test_one_host_has_its_own_name() -> None:
    cluster = parse_cluster("h100:8")
    alone = replace(cluster, hosts=(replace(cluster.hosts[0], name="node-0", count=1),))
    assert find_host(alone, Worker(rank=0, host="node-0", device="cuda:0", threads=1)) is alone.hosts[0]
