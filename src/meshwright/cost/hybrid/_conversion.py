"""Layouts as strategies and back: a strategy names its workers, its cuts and its recomputed blocks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from string import digits

from meshwright.cost._split import Pipeline, Placement
from meshwright.cost._strategy import Batch, Strategy, Worker
from meshwright.cost.hybrid._layout import Layout, Replica
from meshwright.cost.hybrid._order import USUAL_ORDER, Order, live, normal, strides
from meshwright.cost.hybrid._units import Units
from meshwright.errors import PlanError
from meshwright.graph import Graph, SplitParameter
from meshwright.hardware import Host

_Sort = tuple[tuple[int, ...], float, int]


def strategy_of(layout: Layout, graph: Graph, units: Units, workers: tuple[Worker, ...]) -> Strategy:
    """The strategy that a layout stands for.

    Args:
        workers: one for every place of the mesh, in the order of its ranks.
    """
    pipeline = Pipeline(schedule=layout.schedule, cuts=tuple(units.paths[bound] for bound in layout.bounds[1:]))
    return Strategy(
        workers=workers,
        mesh=layout.mesh,
        batch=Batch(size=graph.batch_size, shares=_shares(layout), accumulation=layout.micro_batches),
        sharding=layout.sharding,
        shards=_shards(layout),
        recompute=tuple(units.paths[unit] for unit in layout.recomputed),
        placements=_placements(layout, graph),
        sequence=layout.sequence,
        attention=layout.attention,
        offload=layout.offload,
        pipeline=pipeline if layout.mesh.pp > 1 else None,
        kernels=layout.kernels,
        precision=layout.precision,
        exchange=layout.exchange,
    )


def layout_of(strategy: Strategy, units: Units, hosts: Sequence[Host]) -> Layout:
    """The layout of a strategy.

    Args:
        hosts: those that train, which `Replica.kinds` counts.

    Raises:
        PlanError: it cuts or recomputes where the model has no unit.
    """
    mesh, batch = strategy.mesh, strategy.batch
    places = {path: index for index, path in enumerate(units.paths)}
    cuts = strategy.pipeline.cuts if strategy.pipeline is not None else ()
    on_cpu = strategy.workers[0].device == "cpu"
    replicas, shards = _replicas(strategy, hosts)
    return Layout(
        mesh=mesh,
        replicas=replicas,
        sharding=strategy.sharding,
        shards=shards,
        sequence=strategy.sequence,
        attention=strategy.attention,
        offload=strategy.offload,
        micro_batches=batch.accumulation,
        schedule=strategy.pipeline.schedule if strategy.pipeline is not None else "1f1b",
        bounds=(0, *(_unit(path, places) for path in cuts)),
        recomputed=tuple(sorted(_unit(path, places) for path in strategy.recompute)),
        kernels=strategy.kernels,
        precision=strategy.precision,
        exchange=strategy.exchange,
        threads=strategy.workers[0].threads if on_cpu else 1,
        order=order_of(strategy, hosts),
    )


def sorts_of(strategy: Strategy, hosts: Sequence[Host]) -> tuple[int, ...]:
    """For every data rank, which of its layout's replicas it is one of."""
    numbers: dict[_Sort, int] = {}
    return tuple(numbers.setdefault(sort, len(numbers)) for sort in _sorts(strategy, hosts))


def order_of(strategy: Strategy, hosts: Sequence[Host] = ()) -> Order:
    """The order of a strategy's axes: by how far its first worker's neighbours stand from it, the usual one in doubt.

    Args:
        hosts: those that train, as they are filled one after another; none: as their names are numbered.
    """
    mesh, workers = strategy.mesh, strategy.workers
    several = live(mesh, USUAL_ORDER)
    if len(several) < 2:
        return USUAL_ORDER
    ranks = strides(mesh, USUAL_ORDER)
    asked = [workers[0], *(workers[ranks[axis]] for axis in several)]
    machines = [_machine(one, hosts) for one in asked] if hosts else _numbered([one.host for one in workers], asked)
    places = [_local_place(one) for one in asked]
    apart = {
        axis: (abs(machine - machines[0]), abs(place - places[0]))
        for axis, machine, place in zip(several, machines[1:], places[1:], strict=True)
    }
    return normal(mesh, sorted(several, key=apart.__getitem__, reverse=True))


def _machine(worker: Worker, hosts: Sequence[Host]) -> int:
    """Which machine a worker is on, in the order in which they are filled."""
    before = 0
    for host in hosts:
        number = _number(worker, host)
        if number is not None:
            return before + number
        before += host.count
    return before


def _numbered(names: Sequence[str], asked: Sequence[Worker]) -> list[int]:
    """The same by the machines' names."""
    listed = sorted(set(names), key=lambda name: (name.rstrip(digits), int(name[len(name.rstrip(digits)) :] or 0)))
    return [listed.index(one.host) for one in asked]


def _local_place(worker: Worker) -> int:
    """Which device of its machine a worker is on, or its first core."""
    if worker.device == "cpu":
        return min(worker.cores, default=0)
    return int(worker.device.partition(":")[2] or 0)


def _unit(path: str, places: dict[str, int]) -> int:
    """The unit that begins with a module, or the one that the module lies in."""
    name = path
    while name and name not in places:
        name = name.rpartition(".")[0]
    if not name:
        raise PlanError(
            f"{path!r} is no block of the model",
            cause="stages begin, and activations are computed again, at repeated blocks",
            alternatives=[f"blocks: {', '.join(list(places)[1:6])}, …"],
        )
    return places[name]


def _shares(layout: Layout) -> tuple[int, ...]:
    """Relative shares of the data ranks: equal numbers, or examples where replicas differ."""
    if len(layout.replicas) == 1:
        return (1,) * layout.mesh.num_shares
    return tuple(
        round(replica.examples * layout.micro_batches) for replica in layout.replicas for _ in range(replica.count)
    )


def _shards(layout: Layout) -> tuple[int, ...]:
    """Relative shards of the data ranks; empty: equal ones."""
    if not layout.shards:
        return ()
    return tuple(
        size for replica, size in zip(layout.replicas, layout.shards, strict=True) for _ in range(replica.count)
    )


def _replicas(strategy: Strategy, hosts: Sequence[Host]) -> tuple[tuple[Replica, ...], tuple[int, ...]]:
    """Data ranks of a sort together, and the relative size of each sort's shards."""
    found = Counter(_sorts(strategy, hosts))
    replicas = tuple(Replica(count=count, kinds=kind, examples=size) for (kind, size, _), count in found.items())
    return replicas, tuple(shard for _, _, shard in found) if strategy.shards else ()


def _sorts(strategy: Strategy, hosts: Sequence[Host]) -> Iterator[_Sort]:
    """Every data rank's kinds of devices along the pipeline, examples of a micro-batch, and shard."""
    mesh, batch = strategy.mesh, strategy.batch
    total = sum(batch.shares)
    shards = strategy.shards_among(mesh.num_shares)
    for share, (part, shard) in enumerate(zip(batch.shares, shards, strict=True)):
        kinds = _kinds(strategy, hosts, share) if len(hosts) > 1 else (0,) * mesh.pp
        yield kinds, batch.size * part / total / batch.accumulation, shard


def _kinds(strategy: Strategy, hosts: Sequence[Host], share: int) -> tuple[int, ...]:
    mesh = strategy.mesh
    inner = mesh.tp * mesh.cp
    outer = inner * mesh.num_shares
    return tuple(_kind(strategy.workers[stage * outer + share * inner], hosts) for stage in range(mesh.pp))


def _kind(worker: Worker, hosts: Sequence[Host]) -> int:
    return next((number for number, host in enumerate(hosts) if _number(worker, host) is not None), 0)


def _number(worker: Worker, host: Host) -> int | None:
    """Which of the machines that a host entry stands for a worker is on; None where it is on none of them."""
    if worker.host == host.name:
        return 0
    stem, _, index = worker.host.rpartition("-")
    several = host.count > 1 and stem == host.name and index.isdigit() and int(index) < host.count
    return int(index) if several else None


def _placements(layout: Layout, graph: Graph) -> tuple[Placement, ...]:
    """Every split parameter of every instance of its block."""
    splits, found = graph.splits, []
    if splits is None:
        return ()
    if layout.mesh.tp > 1 and splits.tensor is not None:
        found += [_instances(graph, item, "tp") for item in splits.tensor.parameters]
    if layout.mesh.ep > 1 and splits.expert is not None:
        found += [_instances(graph, item, "ep") for item in splits.expert.parameters]
    return tuple(placement for each in found for placement in each)


def _instances(graph: Graph, item: SplitParameter, axis: str) -> list[Placement]:
    for block in graph.blocks:
        first = block.paths[0]
        if item.path.startswith(f"{first}."):
            rest = item.path.removeprefix(first)
            return [
                Placement(parameter=path + rest, axis=axis, dim=item.dim, groups=item.groups)  # type: ignore[arg-type]
                for path in block.paths
            ]
    return [Placement(parameter=item.path, axis=axis, dim=item.dim, groups=item.groups)]  # type: ignore[arg-type]
