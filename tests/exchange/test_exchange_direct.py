"""What the direct transport says on its connections: bit by bit, in any order of arrival, and when somebody is gone."""

import time

import pytest
import torch

from meshwright.errors import WorkerError
from meshwright.exchange import DirectTransport, make_transport
from meshwright.exchange.direct._collectives import parts_of
from meshwright.exchange.direct._settling import pays
from meshwright.exchange.direct._travel import Travel

CPU = torch.device("cpu")
ODD = torch.tensor([0.0, -0.0, 1e-45, -3e38, float("inf"), float("-inf"), float("nan"), 1.0])


def _gradients(seed: int, numel: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(numel, generator=generator) * 10.0 ** torch.randint(-9, 3, (numel,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_values_come_back_bit_by_bit(dtype):
    values = torch.cat([_gradients(0, 10_001) * 1e-3, ODD]).to(dtype)
    travel = Travel(dtype=dtype, packing="exponents")
    message = travel.message(values)
    assert message.numel() < 0.95 * values.nbytes
    assert torch.equal(travel.read(message, values.numel()).view(torch.uint8), values.view(torch.uint8))


def test_values_that_do_not_pack_travel_as_they_are():
    """Eight values need more for the table of codes than their exponents take."""
    travel = Travel(dtype=torch.float32, packing="exponents")
    message = travel.message(ODD)
    assert message.data_ptr() == ODD.data_ptr()
    assert torch.equal(travel.read(message, 8).view(torch.uint8), ODD.view(torch.uint8))


def test_a_message_of_other_values_is_an_error():
    travel = Travel(dtype=torch.float32, packing="exponents")
    message = travel.message(_gradients(0, 5000))
    with pytest.raises(WorkerError, match=r"a message of \d+ bytes came where 6000 packed values.* were expected"):
        travel.read(message, 6000)
    with pytest.raises(WorkerError, match="40 bytes came where 20 bytes were expected"):
        Travel(dtype=torch.float32).read(torch.zeros(40, dtype=torch.uint8), 5)


def test_parts_are_whole_lines_and_the_last_ones_may_be_empty():
    assert [part.numel() for part in parts_of(torch.zeros(100), 3)] == [48, 48, 4]
    assert [part.numel() for part in parts_of(torch.zeros(20), 4)] == [16, 4, 0, 0]


def test_packing_has_to_be_worth_its_work():
    assert pays(1.0, 0.8)
    assert not pays(1.0, 0.95)


def _settled() -> tuple[str, str]:
    transport = make_transport("direct_packed", None, CPU)
    assert isinstance(transport, DirectTransport)
    total = torch.ones(100)
    transport.all_reduce(total).wait()
    transport.close()
    return transport.packing, str(total.unique().tolist())


def test_all_workers_settle_on_the_same_packing(workers):
    """Which one depends on the machine; were it two, the sum would end in an error."""
    found = workers(3).run(_settled)
    assert len(set(found)) == 1
    assert found[0][1] == "[3.0]"


def _sums(name: str, dtype: torch.dtype, travelling: torch.dtype) -> list[bytes]:
    """Sums of three lengths under way at once, as bytes."""
    transport = make_transport(name, None, CPU)
    assert isinstance(transport, DirectTransport)
    transport.packing = "exponents" if name == "direct_packed" else "none"
    tensors = [_gradients(transport.rank, numel).to(dtype) for numel in (7, 1000, 40_003)]
    transfers = [transport.sum_rounded(tensor, travelling) for tensor in tensors]
    for transfer in transfers:
        transfer.wait()
    transport.close()
    return [tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors]


def _in_order(size: int, numel: int, dtype: torch.dtype, travelling: torch.dtype) -> torch.Tensor:
    total, *others = (_gradients(rank, numel).to(dtype).to(travelling).to(dtype) for rank in range(size))
    for other in others:
        total = total + other
    return total if size == 2 else total.to(travelling).to(dtype)


@pytest.mark.parametrize(
    ("name", "size", "dtype", "travelling"),
    [
        ("direct", 2, torch.float64, torch.float64),
        ("direct", 3, torch.float64, torch.float64),
        ("direct_packed", 2, torch.float32, torch.float32),
        ("direct_packed", 3, torch.float32, torch.float32),
        ("direct_packed", 2, torch.float32, torch.bfloat16),
        ("direct_packed", 3, torch.float32, torch.bfloat16),
        ("direct", 3, torch.float32, torch.float16),
    ],
)
def test_sums_are_those_in_the_order_of_the_ranks_bit_by_bit(workers, name, size, dtype, travelling):
    expected = [
        _in_order(size, numel, dtype, travelling).view(torch.uint8).numpy().tobytes() for numel in (7, 1000, 40_003)
    ]
    assert workers(size).run(_sums, name, dtype, travelling) == [expected] * size


def _apart() -> list[float]:
    """Worker 0 is a collective ahead of the others in what it says, and each a turn late in what it asks for."""
    transport = DirectTransport()
    tensors = [torch.full((30_000,), float(transport.rank + number)) for number in range(4)]
    transfers = []
    for number, tensor in enumerate(tensors):
        time.sleep(0.02 * transport.rank)
        transfers.append(transport.broadcast(tensor, root=1) if number % 2 else transport.all_reduce(tensor))
    for transfer in reversed(transfers):
        transfer.wait()
    transport.close()
    return [tensor.unique().tolist() for tensor in tensors]


def test_a_worker_may_be_ahead_of_the_others(workers):
    """Of ranks 0 to 2: 0 + 1 + 2; root 1 plus 1; 2 + 3 + 4; root 1 plus 3."""
    assert workers(3).run(_apart) == [[[3.0], [2.0], [9.0], [4.0]]] * 3


def _left() -> str:
    transport = DirectTransport()
    tensor = torch.ones(10)
    transport.all_reduce(tensor).wait()
    if transport.rank == 1:
        transport.close()
        return ""
    with pytest.raises(WorkerError) as raised:
        transport.all_reduce(tensor).wait()
    with pytest.raises(WorkerError):
        transport.broadcast(tensor, root=1).wait()
    transport.close()
    return str(raised.value)


def test_a_worker_that_hangs_up_is_named(workers):
    assert "worker 1 is gone" in workers(2).run(_left)[0]


def _waiting() -> str:
    transport = DirectTransport(timeout=0.2)
    message = ""
    if transport.rank == 0:
        with pytest.raises(WorkerError) as raised:
            transport.all_reduce(torch.ones(10)).wait()
        message = str(raised.value)
    torch.distributed.barrier()
    transport.close()
    return message


def test_a_worker_that_stays_silent_is_named(workers):
    assert "workers [1] did not answer worker 0 for 0 s" in workers(2).run(_waiting)[0]
