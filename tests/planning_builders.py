"""Hand-made machines and models with round figures, so that prices can be computed in the head.

Machine: matrices at 100 GFLOP/s a thread (2 threads: 180, oneDNN twice as fast), memory at 10 GB/s a thread (copies ten
times as fast), no overhead unless asked for. Model: `layers` linear layers of 1000 × 1000, so 2 MFLOP forward an
example and layer.
"""

from meshwright.cost import Batch, Mesh, Strategy, Worker
from meshwright.graph import Activation, Block, Graph, Linear, MatrixShape, Operation, OptimizerState, Parameter
from meshwright.hardware import Cluster, CollectiveRate, Device, Host, Link, MatrixRate, OperationRate

GB = 10**9
WIDTH = 1000
KINDS = ("pointwise", "transcendental", "normalization", "reduction", "random", "indexing", "optimizer")


def processor(
    *, cores: int = 2, memory: int = 16 * GB, bfloat16: float = 0.0, overhead: float = 0.0, onednn_exact: bool = True
) -> Device:
    """A CPU of the module's round figures.

    Args:
        bfloat16: its matrix rate with one thread (FLOP/s); 0: not measured.
        overhead: of each operation (s); autograd's record of one, and a node of the backward, take twice that.
        onednn_exact: whether oneDNN's matrices were found exact.
    """
    speedup = {1: 1.0, 2: 1.8}
    threads = [count for count in (1, 2) if count <= cores]
    matrices = [
        MatrixRate(dtype="float32", threads=count, library=library, size=size, rate=rate * speedup[count], exact=exact)
        for count in threads
        for library, rate, exact in (("default", 100e9, True), ("onednn", 200e9, onednn_exact))
        for size in (64, 1024)
    ]
    if bfloat16:
        matrices += [
            MatrixRate(dtype="bfloat16", threads=count, size=512, rate=bfloat16 * speedup[count]) for count in threads
        ]
    operations = [
        OperationRate(kind=kind, threads=count, bandwidth=10e9 * speedup[count], overhead=overhead)
        for count in threads
        for kind in (*KINDS, "optimizer_fused")
    ]
    operations += [
        OperationRate(kind="copy", threads=count, bandwidth=100e9 * speedup[count], overhead=overhead)
        for count in threads
    ]
    operations += [
        OperationRate(kind="overhead", threads=count, variant=variant, bandwidth=0.0, overhead=overhead * times)
        for count in threads
        for variant, times in (("default", 1), ("forward", 2), ("backward", 2))
    ]
    operations += [OperationRate(kind="allocation", threads=count, bandwidth=5e9, overhead=0.0) for count in threads]
    return Device(
        kind="cpu", name="round figures", cores=cores, memory=memory, context=GB // 5, source="made by hand",
        matrix_rates=tuple(matrices), operation_rates=tuple(operations),
    )  # fmt: skip


def machine(device: Device | None = None, *, latency: float = 1e-4, bandwidth: float = 1e9) -> Cluster:
    """One host, whose processes exchange over gloo at `bandwidth`, and over shared memory ten times as fast."""
    rows = [
        CollectiveRate(
            collective=name, transport=transport, group=2, latency=latency / faster, bandwidth=bandwidth * faster
        )
        for transport, faster in (("gloo", 1), ("shared_memory", 10))
        for name in ("all_reduce", "broadcast")
    ]
    rows += [
        CollectiveRate(collective=name, transport="gloo", group=2, latency=latency, bandwidth=bandwidth)
        for name in ("all_gather", "reduce_scatter")
    ]
    link = Link(tier="process", latency=latency, bandwidth=bandwidth, collectives=tuple(rows))
    return Cluster(
        name="by-hand", identity="0", hosts=(Host(name="here", device=device or processor()),), links=(link,)
    )


def accelerators(*, hosts: int = 2, devices: int = 8, memory: int = 80 * GB) -> Cluster:
    """Hosts of accelerators with 400 TFLOP/s in bfloat16 and 2 TB/s; 200 GB/s inside a host, 50 GB/s between hosts."""
    device = Device(
        kind="cuda", name="round accelerator", memory=memory, context=GB, power=700.0, price=3.0, source="made by hand",
        matrix_rates=(
            MatrixRate(dtype="bfloat16", size=4096, rate=400e12), MatrixRate(dtype="float32", size=4096, rate=50e12),
        ),
        operation_rates=tuple(OperationRate(kind=kind, bandwidth=2e12, overhead=5e-6) for kind in (*KINDS, "copy")),
    )  # fmt: skip
    links = (
        Link(tier="host", latency=5e-6, bandwidth=200e9),
        Link(tier="network", latency=1e-5, bandwidth=50e9),
    )
    return Cluster(name="rack", hosts=(Host(name="node", count=hosts, device=device, devices=devices),), links=links)


def multilayer(
    *, layers: int = 2, batch: int = 100, traits: tuple[str, ...] = (), blocks: bool = True, scale: float = 1.0
) -> Graph:
    """Linear layers of 1000 × 1000, each a repeated block, trained by AdamW.

    Per example and layer: 2 MFLOP forward, 4 MFLOP backward in two products, 4 kB saved. Per layer: 4 MB of
    parameters and of gradients, 8 MB of state.

    Args:
        scale: times which activations are larger than the layer's own input.
    """
    width = float(WIDTH)
    shape = MatrixShape(
        batch=Linear(fixed=1), rows=Linear(per_example=1), inner=Linear(fixed=width), columns=Linear(fixed=width)
    )
    saved = Linear(per_example=4 * width * scale)
    product = {
        "kind": "matrix", "module": "layers.0", "dtype": "float32", "repeats": layers, "matrix": shape,
        "flops": Linear(per_example=2 * width**2), "bytes_read": Linear(), "bytes_written": Linear(),
    }  # fmt: skip
    operations = [
        Operation(name="aten.addmm", phase="forward", **product),
        Operation(name="aten.mm", phase="backward", **product),
        Operation(name="aten.mm", phase="backward", **product),
    ]
    return Graph(
        model="Multilayer", batch_size=batch, operations=tuple(operations),
        parameters=(Parameter(paths=("layers.0.weight",), shape=(WIDTH, WIDTH), dtype="float32", repeats=layers),),
        activations=(
            Activation(module="layers.0", size=saved, created=0, freed=2, repeats=layers),
        ),
        transient=Linear(), batch_bytes=Linear(per_example=4 * width),
        blocks=(Block(paths=tuple(f"layers.{index}" for index in range(layers)), kind="Linear"),) if blocks else (),
        optimizer=OptimizerState(name="AdamW", bytes_per_element=8, fused=True, operations=12), traits=traits,
    )  # fmt: skip


def one_worker(*, threads: int = 1, batch: int = 100, accumulation: int = 1, **choices: object) -> Strategy:
    """A strategy of one process."""
    return Strategy(
        workers=(Worker(rank=0, host="here", device="cpu", threads=threads, cores=tuple(range(threads))),),
        batch=Batch(size=batch, shares=(1,), accumulation=accumulation), **choices,
    )  # fmt: skip


def two_workers(*, batch: int = 100, accumulation: int = 1, **choices: object) -> Strategy:
    """A strategy of two processes with a thread each, replicated."""
    workers = tuple(Worker(rank=rank, host="here", device="cpu", threads=1, cores=(rank,)) for rank in range(2))
    mesh = choices.pop("mesh", Mesh(dp_replicate=2))
    batches = Batch(size=batch, shares=(1, 1), accumulation=accumulation)
    return Strategy(workers=workers, mesh=mesh, batch=batches, **choices)
