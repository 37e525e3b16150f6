"""Small random models and clusters, and the plain search that looks at everything: oracles of the planner's search."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations

from meshwright.cost.accelerator import calibration
from meshwright.cost.hybrid import HybridPricer, Layout, Price
from meshwright.graph import (
    Activation,
    Block,
    Cut,
    ExpertSplit,
    Graph,
    Linear,
    Operation,
    OptimizerState,
    Parameter,
    SplitExchange,
    SplitParameter,
    Splits,
    TensorSplit,
)  # fmt: skip
from meshwright.hardware import Cluster, Device, Host, Link, MatrixRate, OperationRate, parse_cluster
from meshwright.plan import Goal
from meshwright.plan.search import Aim, choices_of, device_sets, frames, keeps_all, limits, shapes

KINDS = ("pointwise", "transcendental", "normalization", "reduction", "random", "indexing", "optimizer", "copy")


def random_graph(rng: random.Random, *, most_blocks: int = 3) -> Graph:
    """A first layer, up to so many blocks of one or two kinds, a last; blocks split over 2 workers, cuts anywhere."""
    numbers = [rng.randint(1, most_blocks)]
    if rng.random() < 0.4 and most_blocks > 2:
        numbers = [rng.randint(1, most_blocks - 2), rng.randint(1, 2)]
    sections = [("first", 1), *((f"part{index}.0", number) for index, number in enumerate(numbers)), ("last", 1)]
    operations: list[Operation] = []
    parameters, activations = [], []
    heavy = rng.choice((0, 4, 8))  # tensors with state that is worth moving to the hosts' memory
    for module, number in sections:
        work, memory = rng.uniform(0.2, 3) * 1e9, rng.uniform(0.1, 2) * 1e8
        operations += [_operation(module, "forward", number, work), _operation(module, "backward", number, 2 * work)]
        elements = rng.randint(1, 40) * 10**5
        parameters.append(Parameter(paths=(f"{module}.weight",), shape=(2, elements), dtype="float32", repeats=number))
        parameters += [
            Parameter(paths=(f"{module}.more{index}",), shape=(2, 4 * 10**6), dtype="float32", repeats=number)
            for index in range(heavy)
        ]
        activations.append(
            Activation(module=module, size=Linear(per_example=memory), created=len(operations) - 2,
                       freed=len(operations) - 1, repeats=number)
        )  # fmt: skip
    blocks = tuple(
        Block(paths=tuple(f"part{index}.{place}" for place in range(number)), kind="Block",
              input_size=Linear(per_example=rng.uniform(1, 9) * 1e6))
        for index, number in enumerate(numbers)
    )  # fmt: skip
    graph = Graph(
        model="Random", batch_size=rng.choice((4, 8)), operations=tuple(operations), parameters=tuple(parameters),
        activations=tuple(activations), transient=Linear(per_example=1e6), batch_bytes=Linear(per_example=1e3),
        blocks=blocks, optimizer=OptimizerState(name="AdamW", bytes_per_element=8, fused=True, operations=12),
    )  # fmt: skip
    return replace(graph, splits=_splits(graph, rng))


def _operation(module: str, phase: str, repeats: int, work: float) -> Operation:
    return Operation(
        name="aten.mul", kind="pointwise", phase=phase, module=module, dtype="float32", repeats=repeats,
        flops=Linear(per_example=work), bytes_read=Linear(per_example=work), bytes_written=Linear(fixed=work / 20),
    )  # fmt: skip


def _splits(graph: Graph, rng: random.Random) -> Splits:
    paths = [path for block in graph.blocks for path in block.paths]
    size = Linear(per_example=rng.uniform(0.1, 30) * 1e6)
    firsts = [(block.paths[0], len(block.paths)) for block in graph.blocks]
    exchanges = tuple(
        SplitExchange(name="all_reduce", phase=phase, module=path, size=size, repeats=number)
        for path, number in firsts
        for phase in ("forward", "backward")
    )
    inside = tuple(index for index, item in enumerate(graph.operations) if item.module.startswith("part"))
    parameters = tuple(SplitParameter(path=f"{path}.weight", dim=0) for path, _ in firsts)
    tensor = TensorSplit(degrees=(2,), parameters=parameters, operations=inside, whole=exchanges)
    expert = ExpertSplit(degrees=(2,), parameters=parameters, exchanges=exchanges)
    return Splits(
        tensor=tensor, expert=expert if rng.random() < 0.3 else None,
        cuts=tuple(Cut(path=path, size=Linear(per_example=rng.uniform(1, 9) * 1e5)) for path in (*paths, "last")),
    )  # fmt: skip


def random_cluster(rng: random.Random, *, mixed: bool = False) -> Cluster:
    """Up to 4 accelerators of one kind on 1 or 2 hosts; mixed: 2 of each of two kinds."""
    shapes = [(1, 2), (1, 2)] if mixed else [rng.choice(((1, 2), (2, 1), (1, 4), (2, 2)))]
    hosts = tuple(
        Host(name=f"node{index}", count=count, device=_device(rng, f"kind {index}"), devices=devices)
        for index, (count, devices) in enumerate(shapes)
    )
    links = (
        Link(tier="host", latency=5e-6, bandwidth=rng.uniform(1, 300) * 1e9),
        Link(tier="network", latency=2e-5, bandwidth=rng.uniform(0.3, 50) * 1e9),
    )
    return Cluster(name="random", hosts=hosts, links=links)


def catalogue_pricer(graph: Graph, rng: random.Random, *, mixed: bool = False) -> HybridPricer:
    """Up to 4 accelerators of the catalogue with little memory, in programs that wait for more or less."""
    clusters = [parse_cluster(f"{name}:2x2") for name in (("h100", "a100") if mixed else ("h100",))]
    hosts = tuple(
        replace(host, name=f"node{index}", count=2 // len(clusters))
        for index, one in enumerate(clusters) for host in one.hosts
    )  # fmt: skip
    cluster = with_memory(replace(clusters[0], hosts=hosts), tuple(rng.randint(4, 9) * 10**9 for _ in hosts))
    links = tuple(replace(link, bandwidth=link.bandwidth * rng.choice((0.01, 0.1, 1.0))) for link in cluster.links)
    habits = replace(
        calibration().own, bubble=rng.choice((0.7, 1.0, 1.2)), gradient_bytes=rng.choice((0.0, 2.0)),
        hidden_share=rng.choice((0.2, 0.9)), step=rng.choice((0.0, 1e-3)),
    )  # fmt: skip
    return HybridPricer(graph, replace(cluster, links=links), habits=habits)


def _device(rng: random.Random, name: str) -> Device:
    """Every second one is joined to its host's memory by a link that is known."""
    to_host = tuple(
        OperationRate(kind="copy", variant=way, bandwidth=rng.uniform(2, 60) * 1e9, overhead=0.0)
        for way in (("to_device", "from_device") if rng.random() < 0.5 else ())
    )
    return Device(
        kind="cuda", name=name, memory=round(rng.uniform(0.15, 4) * 1e9), power=rng.choice((300.0, 700.0)),
        price=rng.uniform(0.5, 5), source="made up", matrix_rates=(MatrixRate(dtype="float32", size=4096, rate=5e13),),
        operation_rates=(
            *(OperationRate(kind=kind, bandwidth=rng.uniform(0.5, 2) * 1e12, overhead=1e-6) for kind in KINDS),
            *to_host,
        ),
    )  # fmt: skip


def everything(pricer: HybridPricer, goal: Goal, *, subsets: bool) -> Iterator[tuple[Layout, Price]]:
    """Every layout of the space with its price, those that do not fit left out.

    Args:
        subsets: whether any set of blocks may be computed again, or none.
    """
    choices = choices_of(pricer, goal)
    size = len(pricer.units.kinds)
    blocks = [unit for unit in range(size) if 0 < pricer.units.kinds[unit] < pricer.units.num_kinds - 1]
    sets = [chosen for number in range(len(blocks) + 1) for chosen in combinations(blocks, number)]
    for devices in device_sets(pricer.hosts, goal):
        for shape in shapes(pricer, choices, devices):
            for frame in (one for each in in_all_orders(shape) for one in frames(pricer, each, choices)):
                for cuts in combinations(sorted(pricer.units.cuts), frame.num_stages - 1):
                    for again in sets if subsets and not keeps_all(frame.layout) else [()]:
                        layout = replace(frame.layout, bounds=(0, *cuts), recomputed=again)
                        if fits(pricer, layout, limits(pricer, goal, layout)):
                            yield layout, pricer.price(layout)


def in_all_orders(shape: Layout) -> Iterator[Layout]:
    """A shape, its data ranks all replicas yet, with its axes in every order on the devices.

    Where kinds of devices differ, the outermost axis stays. Expert groups reach over neighbours along `cp`, then the
    data ranks: they need a common stride.
    """
    mesh = shape.mesh
    several = [axis for axis in ("pp", "dp_replicate", "cp", "tp") if getattr(mesh, axis) > 1]
    usual = [axis for axis in shape.order if axis in several]
    mixed = len({kind for replica in shape.replicas for kind in replica.kinds}) > 1
    for order in permutations(several):
        if mixed and order[0] != usual[0]:
            continue
        data = order.index("dp_replicate") if "dp_replicate" in order else -1
        beyond = mesh.cp > 1 and mesh.ep > 1 and mesh.cp % mesh.ep
        if beyond and data >= 0 and order[data + 1 : data + 2] != ("cp",):
            continue
        for pair in (("dp_replicate", "dp_shard"), ("dp_shard", "dp_replicate"))[: 1 if mixed else 2]:
            every = [one for axis in order for one in (pair if axis == "dp_replicate" else (axis,))]
            yield replace(shape, order=(*(axis for axis in shape.order if axis not in every), *every))


def best_of_everything(pricer: HybridPricer, goal: Goal, aim: Aim, *, subsets: bool = True) -> float:
    """The least value in the space; infinite where nothing fits."""
    found = everything(pricer, goal, subsets=subsets)
    return min((aim.value(price) for _, price in found if aim.allows(price)), default=float("inf"))


def with_memory(cluster: Cluster, sizes: tuple[int, ...]) -> Cluster:
    """A cluster whose hosts' devices have other memory (B), and no way to that of their hosts."""
    return replace(
        cluster, hosts=tuple(_with_memory(host, size) for host, size in zip(cluster.hosts, sizes, strict=True))
    )


def _with_memory(host: Host, size: int) -> Host:
    rates = tuple(row for row in host.device.operation_rates if not row.variant.endswith("_device"))
    return replace(host, device=replace(host.device, memory=size, operation_rates=rates))


def fits(pricer: HybridPricer, layout: Layout, most: tuple[int, ...]) -> bool:
    """Whether every worker stays within its own device's limit."""
    stages = pricer.stages(layout)
    return all(
        items.peak <= most[kind]
        for replica in layout.replicas
        for items, kind in zip(pricer.memory(layout, stages, replica), replica.kinds, strict=True)
    )
