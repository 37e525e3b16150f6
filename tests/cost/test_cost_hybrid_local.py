"""What one worker of a mixture's layer computes and keeps: fewer experts, each with other workers' tokens too."""

from dataclasses import replace

import pytest

import planning_builders as build
from meshwright.cost import Mesh, Sharding
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.cost.hybrid._local import Division, local_graph
from meshwright.graph import ExpertSplit, Linear, MatrixShape, Operation, SplitParameter, Splits


def _grouped(rows: Linear, inner: Linear) -> Operation:
    shape = MatrixShape(batch=Linear(fixed=8.0), rows=rows, inner=inner, columns=Linear(fixed=32.0))
    return Operation(
        name="aten._grouped_mm", kind="matrix", phase="forward", module="experts", dtype="bfloat16", repeats=1,
        flops=Linear(per_example=1e6), bytes_read=Linear(), bytes_written=Linear(), matrix=shape,
    )  # fmt: skip


def test_of_eight_experts_four_workers_have_two_each_with_four_times_the_tokens() -> None:
    tokens, width = Linear(per_example=6.0), Linear(fixed=16.0)
    forward, of_weight = _grouped(tokens, width), _grouped(width, tokens)
    router = replace(forward, module="router")
    splits = Splits(
        expert=ExpertSplit(degrees=(4,), parameters=(SplitParameter(path="experts.up", dim=0),), exchanges=())
    )
    graph = replace(build.multilayer(), operations=(forward, of_weight, router), splits=splits)
    first, second, other = local_graph(graph, Division(ep=4)).operations
    assert first.matrix == replace(forward.matrix, batch=Linear(fixed=2.0), rows=Linear(per_example=24.0))  # type: ignore[type-var]
    assert second.matrix == replace(of_weight.matrix, batch=Linear(fixed=2.0), inner=Linear(per_example=24.0))  # type: ignore[type-var]
    assert first.flops == forward.flops
    assert other == router


@pytest.mark.parametrize(
    ("sharding", "expected"),
    [("none", (4, 4, 8)), ("optimizer", (4, 4, 4)), ("gradients", (4, 2, 4)), ("parameters", (2, 2, 4))],
)
def test_shards_of_experts_are_among_those_who_have_the_same(sharding: Sharding, expected: tuple[float, ...]) -> None:
    """2 layers of 4 MB are experts: each of 4 workers has half of them, as one other does; state is twice as much."""
    expert = ExpertSplit(degrees=(2,), parameters=(SplitParameter(path="layers.0.weight", dim=0),), exchanges=())
    graph = replace(build.multilayer(), splits=Splits(expert=expert))
    mesh = Mesh(dp_replicate=4, ep=2) if sharding == "none" else Mesh(dp_shard=4, ep=2)
    replica = Replica(count=4, kinds=(0,), examples=25.0)
    layout = Layout(mesh=mesh, replicas=(replica,), sharding=sharding)
    (found,) = HybridPricer(graph, build.accelerators()).price(layout).memory
    assert (found.parameters, found.gradients, found.optimizer) == tuple(size * 1e6 for size in expected)
