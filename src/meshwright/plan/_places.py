"""Which device each rank of a layout stands on."""

from collections.abc import Iterator, Sequence

from meshwright.cost import Worker, host_names
from meshwright.cost.hybrid import Layout
from meshwright.hardware import Host


def workers_of(layout: Layout, hosts: Sequence[Host]) -> tuple[Worker, ...]:
    """One worker for every rank, hosts filled one after another in the order that the layout asks for."""
    mesh = layout.mesh
    inner = mesh.tp * mesh.cp
    places = [_places(host, layout.threads) for host in hosts]
    kinds = [replica.kinds for replica in layout.replicas for _ in range(replica.count)]
    order = (
        [(stage, share) for share in range(mesh.num_shares) for stage in range(mesh.pp)]
        if layout.order == "pipeline_inside"
        else [(stage, share) for stage in range(mesh.pp) for share in range(mesh.num_shares)]
    )
    found: list[Worker | None] = [None] * mesh.num_workers
    for stage, share in order:
        first = stage * mesh.num_shares * inner + share * inner
        for rank in range(first, first + inner):
            name, device, cores = next(places[kinds[share][stage]])
            found[rank] = Worker(rank=rank, host=name, device=device, threads=layout.threads, cores=cores)
    return tuple(worker for worker in found if worker is not None)


def _places(host: Host, threads: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for name in host_names(host):
        if host.device.kind == "cpu":
            for local in range(max(1, host.device.cores // threads)):
                yield name, "cpu", tuple(range(local * threads, (local + 1) * threads))
        else:
            for index in range(host.devices):
                yield name, f"{host.device.kind}:{index}", ()
