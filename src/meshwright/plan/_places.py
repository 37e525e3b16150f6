"""Which device each rank of a layout stands on."""

from collections.abc import Iterator, Sequence
from itertools import product

from meshwright.cost import Mesh, Strategy, Worker, host_names
from meshwright.cost.hybrid import USUAL_ORDER, Layout, Order, order_of, strides
from meshwright.hardware import Host


def workers_of(layout: Layout, hosts: Sequence[Host]) -> tuple[Worker, ...]:
    """One worker for every rank, hosts filled one after another in the order that the layout asks for."""
    mesh = layout.mesh
    places = [_places(host, layout.threads) for host in hosts]
    kinds = [replica.kinds for replica in layout.replicas for _ in range(replica.count)]
    found: list[Worker | None] = [None] * mesh.num_workers
    for rank in _from_place_to_place(mesh, layout.order):
        name, device, cores = next(places[kinds[mesh.share(rank)][mesh.coordinate(rank, "pp")]])
        found[rank] = Worker(rank=rank, host=name, device=device, threads=layout.threads, cores=cores)
    return tuple(worker for worker in found if worker is not None)


def hosts_of(strategy: Strategy) -> dict[str, tuple[int, ...]]:
    """The hosts of a strategy in the order in which they are filled, and the ranks on each from place to place."""
    found: dict[str, list[int]] = {}
    for rank in _from_place_to_place(strategy.mesh, order_of(strategy)):
        found.setdefault(strategy.workers[rank].host, []).append(rank)
    return {name: tuple(ranks) for name, ranks in found.items()}


def rank_at(strategy: Strategy, place: int) -> int:
    """The rank of the worker that is started as number `place`, counted host by host."""
    return [rank for ranks in hosts_of(strategy).values() for rank in ranks][place]


def _from_place_to_place(mesh: Mesh, order: Order) -> Iterator[int]:
    """Ranks in the order in which devices are filled."""
    steps = strides(mesh, USUAL_ORDER)
    for place in product(*(range(getattr(mesh, axis)) for axis in order)):
        yield sum(number * steps[axis] for number, axis in zip(place, order, strict=True))


def _places(host: Host, threads: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for name in host_names(host):
        if host.device.kind == "cpu":
            for local in range(max(1, host.device.cores // threads)):
                yield name, "cpu", tuple(range(local * threads, (local + 1) * threads))
        else:
            for index in range(host.devices):
                yield name, f"{host.device.kind}:{index}", ()
