"""Collectives of every transport against sums computed by hand."""

import os
import signal
from functools import partial

import pytest
import torch
import torch.distributed as dist

from meshwright.errors import PlanError, WorkerError
from meshwright.exchange import HierarchicalTransport, SharedMemoryTransport, make_transport
from meshwright.exchange.shared_memory._segment import Segment

CPU = torch.device("cpu")
TRANSPORTS = ("gloo", "shared_memory", "hierarchical", "direct", "direct_packed")


def _values(rank: int, numel: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(rank), dtype=torch.float64).to(dtype)


def _all_reduced(name: str, numel: int, dtype: torch.dtype, allocated: bool) -> list[float]:
    transport = make_transport(name, None, CPU)
    buffer = transport.allocate(numel, dtype, CPU) if allocated else torch.empty(numel, dtype=dtype)
    expected = sum(_values(rank, numel, dtype).double() for rank in range(transport.size))
    distances = []
    for _ in range(3):
        buffer.copy_(_values(transport.rank, numel, dtype))
        transport.all_reduce(buffer).wait()
        distances.append((buffer.double() - expected).abs().max().item())
    transport.close()
    return distances


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize(
    ("size", "numel", "allocated"), [(2, 1, True), (2, 100_001, True), (3, 777, False), (3, 40, True)]
)
def test_all_reduce_sums(workers, name, size, numel, allocated):
    for distances in workers(size).run(_all_reduced, name, numel, torch.float64, allocated):
        assert max(distances) < 1e-14


def test_more_than_the_staging_memory_travels_in_parts(workers):
    for distances in workers(2).run(_all_reduced, "shared_memory", 3_000_001, torch.float32, False):
        assert max(distances) < 1e-6


def test_half_precision(workers):
    for distances in workers(2).run(_all_reduced, "shared_memory", 1000, torch.bfloat16, True):
        assert max(distances) < 0.04


def _overlapping(name: str) -> bool:
    """Twelve collectives of four kinds under way at once, and results only where they belong."""
    transport = make_transport(name, None, CPU)
    rank, size = transport.rank, transport.size
    kinds = ["all_reduce", "collect", "broadcast", "publish"] * 3
    tensors = [transport.allocate(513 + number, torch.float64, CPU).fill_(rank + number) for number in range(12)]
    transfers = []
    seen: dict[int, list[torch.Tensor]] = {number: [] for number in range(12)}
    for number, (kind, tensor) in enumerate(zip(kinds, tensors, strict=True)):
        options = {} if kind == "all_reduce" else {"root": number % size}
        if kind in ("collect", "publish"):
            options["receive"] = partial(lambda number, shown: seen[number].append(shown.clone()), number)
        transfers.append(getattr(transport, kind)(tensor, **options))
        if rank == 0:
            transfers[0].advance()
    for transfer in transfers:
        transfer.wait()
    right = []
    for number, (kind, tensor) in enumerate(zip(kinds, tensors, strict=True)):
        total = sum(other + number for other in range(size))
        root = number % size
        if kind == "publish":
            right.append([shown.eq(root + number).all().item() for shown in seen[number]] == [True] * (rank != root))
        elif kind == "collect":
            right.append(sum(seen[number]).eq(total - rank - number).all().item() if rank == root else not seen[number])
        else:
            right.append(tensor.eq(total if kind == "all_reduce" else root + number).all().item())
    transport.close()
    return all(right)


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("size", [2, 3])
def test_many_collectives_under_way(workers, name, size):
    assert workers(size).run(_overlapping, name) == [True] * size


def _bits_of_sum() -> bytes:
    transport = make_transport("shared_memory", None, CPU)
    buffer = transport.allocate(10_000, torch.float32, CPU)
    buffer.copy_(_values(transport.rank, 10_000, torch.float32))
    transport.all_reduce(buffer).wait()
    transport.close()
    return buffer.numpy().tobytes()


def test_every_worker_gets_the_same_bits_in_every_run(workers):
    first, second = workers(3).run(_bits_of_sum), workers(3).run(_bits_of_sum)
    assert len(set(first + second)) == 1


def _killed(name: str, victim: int) -> None:
    transport = make_transport(name, None, CPU)
    buffer = transport.allocate(100, torch.float32, CPU)
    transport.all_reduce(buffer).wait()
    if transport.rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    transport.all_reduce(buffer).wait()


def test_a_killed_worker_is_named(workers):
    with pytest.raises(AssertionError, match=r"worker 1 \(process \d+\) ended while worker 0 waited"):
        workers(2).run(_killed, "shared_memory", 1)


def test_a_killed_worker_breaks_gloo(workers):
    with pytest.raises(AssertionError, match=r"WorkerError: worker 0 of 2 could not exchange tensors with the others"):
        workers(2).run(_killed, "gloo", 1)


def _late() -> str:
    transport = SharedMemoryTransport(timeout=0.2)
    buffer = transport.allocate(100, torch.float32, CPU)
    message = ""
    if transport.rank == 0:
        with pytest.raises(WorkerError) as raised:
            transport.all_reduce(buffer).wait()
        message = str(raised.value)
    dist.barrier()
    transport.close()
    return message


def test_a_worker_that_does_not_answer_is_named(workers):
    message = workers(2).run(_late)[0]
    assert "did not answer worker 0 for 0 s" in message
    assert message.startswith("worker 1 (process ")


def _open_descriptors() -> tuple[int, int]:
    def shared() -> int:
        with open("/proc/self/maps", encoding="ascii") as maps:
            return sum("memfd:meshwright" in line for line in maps) + len(os.listdir("/proc/self/fd"))

    before = shared()
    for _ in range(3):
        transport = make_transport("shared_memory", None, CPU)
        tensor = transport.allocate(1000, torch.float32, CPU)
        transport.release(tensor)
        transport.close()
        del transport, tensor
    return before, shared()


def test_nothing_is_left_open(workers):
    for before, after in workers(2).run(_open_descriptors):
        assert after <= before


def test_shared_memory_is_refused_for_accelerators():
    with pytest.raises(PlanError, match="cannot carry tensors of cuda"):
        make_transport("shared_memory", None, torch.device("cuda"))


def _gathered_and_scattered(numel: int) -> tuple[bool, float]:
    """Whether everybody's part is in its place, and how far the scattered sum is from the sum."""
    transport = SharedMemoryTransport()
    rank, size = transport.rank, transport.size
    whole = torch.empty(size * numel, dtype=torch.float64)
    transport.all_gather(whole, _values(rank, numel, torch.float64))
    gathered = torch.equal(whole, torch.cat([_values(other, numel, torch.float64) for other in range(size)]))
    part = torch.empty(numel, dtype=torch.float64)
    transport.reduce_scatter(part, _values(rank, size * numel, torch.float64))
    total = sum(_values(other, size * numel, torch.float64) for other in range(size))
    distance = (part - total[rank * numel : (rank + 1) * numel]).abs().max().item()
    transport.close()
    return gathered, distance


@pytest.mark.parametrize(("size", "numel"), [(2, 1), (3, 1000), (2, 700_001)])
def test_all_gather_and_reduce_scatter_through_shared_memory(workers, size, numel):
    for gathered, distance in workers(size).run(_gathered_and_scattered, numel):
        assert gathered
        assert distance < 1e-14


def test_more_shared_memory_than_there_is():
    with pytest.raises(WorkerError, match=r"no 1024\.00 TiB of shared memory .*: \d+\.\d+ GiB is free"):
        Segment.create(2**50)


def test_shared_memory_is_refused_elsewhere_than_on_linux(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(PlanError, match="shared_memory does not work on darwin"):
        SharedMemoryTransport()


def _on_two_hosts(host_of: list[str]) -> list[float]:
    """Sums and copies between workers that are told which host they are on."""
    transport = HierarchicalTransport(host=host_of[dist.get_rank()])
    rank, size = transport.rank, transport.size
    tensors = [transport.allocate(100, torch.float64, CPU).fill_(10.0**rank) for _ in range(3)]
    transfers = [transport.all_reduce(tensor) for tensor in tensors[:2]]
    transfers.append(transport.broadcast(tensors[2], root=size - 1))
    for transfer in transfers:
        transfer.advance()
        transfer.wait()
    collected = torch.zeros(100, dtype=torch.float64)
    own = tensors[0].fill_(10.0**rank)
    transport.collect(own, root=1, receive=collected.add_).wait()
    transport.close()
    return [*(tensor[7].item() for tensor in tensors), collected[7].item()]


@pytest.mark.parametrize("host_of", [["a", "b", "b"], ["a", "b", "a"], ["a", "a", "a"]])
def test_two_levels_sum_and_copy(workers, host_of):
    """Workers hold 1, 10 and 100: the sum is 111, worker 2 has 100, and worker 1 is shown 101 by the others."""
    found = workers(3).run(_on_two_hosts, host_of)
    assert [values[1:3] for values in found] == [[111.0, 100.0]] * 3
    assert [values[3] for values in found] == [0.0, 101.0, 0.0]
