"""What a worker sends along the axes that split a model, by hand: 16 accelerators, 200 GB/s inside a host of 8."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.cost.hybrid._exchanges import Exchanges, UnitExchange
from meshwright.graph import ContextSplit, ExpertSplit, Linear, SplitExchange, SplitParameter, Splits

MEGABYTE = Linear(per_example=1e6)


def _exchanged(mesh: Mesh, splits: Splits, **choices: object) -> tuple[UnitExchange, ...]:
    """Exchanges of a micro-batch of 8 examples on a data rank."""
    cluster = build.accelerators()
    graph = replace(build.multilayer(layers=4), splits=splits)
    layout = Layout(mesh=mesh, replicas=(), **choices)  # type: ignore[arg-type]
    return Exchanges(graph, cluster, cluster.hosts).of_units(layout, 8.0)


def _each(name: str) -> SplitExchange:
    return SplitExchange(name=name, phase="forward", module="layers.0", size=MEGABYTE, repeats=4)  # type: ignore[arg-type]


def test_a_worker_sends_its_own_tokens_to_the_experts() -> None:
    """8 MB, of which three quarters leave; over two context ranks half of them leave each."""
    splits = Splits(expert=ExpertSplit(degrees=(2, 4), parameters=(), exchanges=(_each("all_to_all"),)))
    (found,) = _exchanged(Mesh(dp_replicate=4, ep=4), splits)
    assert found.axis == "ep"
    assert found.size[1] == 8e6
    assert found.forward[1] == pytest.approx(8e6 * 3 / 4 / 200e9 + 3 * 5e-6)
    (halved,) = _exchanged(Mesh(dp_replicate=2, cp=2, ep=4), splits)
    assert halved.size[1] == 4e6


def test_heads_are_handed_out_for_a_workers_own_positions() -> None:
    """Of 8 MB a worker of four has 2, of which three quarters leave."""
    split = ContextSplit(degrees=(4,), operations=(), all_to_all=(_each("all_to_all"),), all_to_all_degrees=(4,))
    (found,) = _exchanged(Mesh(cp=4), Splits(context=split), attention="all_to_all")
    assert found.size[1] == 2e6
    assert not found.hideable
    assert found.waited_forward[1] == found.forward[1] == pytest.approx(2e6 * 3 / 4 / 200e9 + 3 * 5e-6)


def test_round_the_ring_come_everybodys_keys_and_a_workers_own_positions_change_hands() -> None:
    split = ContextSplit(degrees=(4,), operations=(), ring=(_each("send"), _each("all_to_all")))
    sent, handed = _exchanged(Mesh(cp=4), Splits(context=split))
    assert (sent.name, sent.size[1], sent.hideable) == ("send", 8e6, True)
    assert (handed.name, handed.size[1], handed.hideable) == ("all_to_all", 2e6, False)


def _summed(mesh: Mesh, splits: Splits) -> tuple[list[tuple[str, int, float]], Layout, HybridPricer]:
    """What follows the last backward with state in shards: name, bytes, and seconds less those of latency."""
    graph = replace(build.multilayer(layers=4), splits=splits)
    pricer = HybridPricer(graph, build.accelerators())
    replica = Replica(count=mesh.num_shares, kinds=(0,), examples=25.0)
    layout = Layout(mesh=mesh, replicas=(replica,), sharding="optimizer")
    listed = [one for one in pricer.price(layout).collectives if one.axis == "dp_shard"]
    return [(one.name, one.size, one.duration) for one in listed], layout, pricer


def test_workers_that_share_sequences_share_out_what_is_in_shards() -> None:
    """16 MB of parameters over 4 data ranks of 2 workers: one sum and one gathering of all eight in a host."""
    context = Splits(context=ContextSplit(degrees=(2,), operations=()))
    found, layout, pricer = _summed(Mesh(dp_shard=4, cp=2), context)
    assert [(name, size) for name, size, _ in found] == [("reduce_scatter", 16_000_000), ("all_gather", 16_000_000)]
    assert found[0][2] == pytest.approx(16e6 * 7 / 8 / 200e9 + 7 * 5e-6)
    (memory,) = pricer.price(layout).memory
    assert memory.optimizer == 32e6 / 8


def test_experts_are_summed_among_those_who_have_the_same() -> None:
    """8 data ranks with a half each of all experts: 8 MB summed and gathered by the four who have the same."""
    expert = ExpertSplit(degrees=(2,), parameters=(SplitParameter(path="layers.0.weight", dim=0),), exchanges=())
    found, layout, pricer = _summed(Mesh(dp_shard=8, ep=2), Splits(expert=expert))
    assert [(name, size) for name, size, _ in found] == [("reduce_scatter", 8_000_000), ("all_gather", 8_000_000)]
    assert found[0][2] == pytest.approx(8e6 * 3 / 4 / 200e9 + 3 * 5e-6)
    (memory,) = pricer.price(layout).memory
    assert memory.optimizer == 32e6 / 2 / 4
