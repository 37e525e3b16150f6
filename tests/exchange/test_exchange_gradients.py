"""Gradients summed in buckets: which, when, and in what memory."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from meshwright.errors import PlanError
from meshwright.exchange import GradientExchange, OwnedGradientExchange, TensorBroadcast, make_transport
from meshwright.exchange._buckets import group

CPU = torch.device("cpu")


def _parameters() -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 4), (5,), (), (2, 2, 3, 3), (7, 1)]
    return [(f"p{n}", nn.Parameter(torch.randn(shape, generator=generator))) for n, shape in enumerate(shapes)]


def test_buckets_close_at_their_size_and_begin_on_cache_lines():
    """Of 48, 20, 4, 144 and 28 bytes, backwards, in buckets of 100: 28 + 144, then 4 + 20 + 48."""
    tensors = [tensor for _, tensor in _parameters()]
    first, second = group(tensors, [4, 3, 2, 1, 0], size=100)
    assert (first.members, first.offsets, first.flags, first.numel) == ((4, 3), (0, 16), 64, 80)
    assert (second.members, second.offsets, second.flags, second.numel) == ((2, 1, 0), (0, 16, 32), 48, 64)


def test_a_bucket_has_one_data_type_and_one_owner():
    tensors = [torch.zeros(4), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4), torch.zeros(4)]
    buckets = group(tensors, range(4), size=1000, owners=[0, 0, 0, 1])
    assert [bucket.members for bucket in buckets] == [(0, 2), (1,), (3,)]


def test_a_view_is_laid_out_like_its_parameter():
    images = torch.empty(2, 3, 4, 4).to(memory_format=torch.channels_last)
    (bucket,) = group([images, torch.empty(6, 8)[:, ::2]], [0, 1], size=1000)
    flat = torch.zeros(bucket.numel)
    assert bucket.view(flat, 0, images).stride() == images.stride()
    assert bucket.view(flat, 1, torch.empty(6, 8)[:, ::2]).stride() == (4, 1)


def _summed(transport_name: str, used: list[list[int]], bucket_size: int) -> list[list[float | None]]:
    """Each worker's loss is the sum of rank + 1 times some parameters; which ones, `used` says by worker."""
    transport = make_transport(transport_name, None, CPU)
    parameters = _parameters()
    exchange = GradientExchange(parameters, transport, bucket_size=bucket_size)
    rank = dist.get_rank()
    steps = []
    for _ in range(3):
        exchange.forget()
        exchange.begin()
        if used[rank]:
            sum((rank + 1) * parameters[number][1].sum() for number in used[rank]).backward()
        exchange.finish()
        exchange.divide(2.0)
        steps.append([None if tensor.grad is None else tensor.grad.mean().item() for _, tensor in parameters])
    layouts = [list(bucket.members) for bucket in exchange._buckets]
    exchange.close()
    transport.close()
    assert all(tensor.grad is None for _, tensor in parameters)
    assert steps[0] == steps[1] == steps[2]
    return [steps[0], layouts]


@pytest.mark.parametrize("transport", ["gloo", "shared_memory"])
@pytest.mark.parametrize("bucket_size", [1, 100, 10_000])
def test_sums_with_gradients_missing_on_some_and_on_all_workers(workers, transport, bucket_size):
    """p0 everywhere: (1 + 2)/2; p1 on worker 1 only: 2/2; p3 on worker 0 only: 1/2; p2 and p4 nowhere."""
    for gradients, _ in workers(2).run(_summed, transport, [[0, 3], [0, 1]], bucket_size):
        assert gradients == [1.5, 1.0, None, 0.5, None]


def test_a_worker_without_any_gradient(workers):
    for gradients, _ in workers(2).run(_summed, "shared_memory", [[0, 1, 2], []], 100):
        assert gradients == [0.5, 0.5, 0.5, None, None]


def test_parameters_that_get_no_gradient_are_sent_last(workers):
    """At first buckets follow the parameters backwards; then in the order in which worker 0's gradients came."""
    for _, layouts in workers(2).run(_summed, "gloo", [[0, 1, 2], [0, 1, 2]], 1):
        order = [member for members in layouts for member in members]
        assert set(order[:3]) == {0, 1, 2}
        assert order[3:] == [4, 3]


def _memory() -> tuple[bool, bool]:
    """Whether a gradient lies in its bucket after each of two micro-batches, and is not moved in between."""
    transport = make_transport("shared_memory", None, CPU)
    parameter = nn.Parameter(torch.ones(4))
    exchange = GradientExchange([("p", parameter)], transport, bucket_size=100)
    (parameter * 1).sum().backward()
    address = parameter.grad.data_ptr()
    exchange.begin()
    (parameter * 2).sum().backward()
    same = parameter.grad.data_ptr() == address
    exchange.finish()
    total = parameter.grad.tolist()
    exchange.close()
    transport.close()
    return same, total == [6.0] * 4


def test_micro_batches_add_up_in_the_bucket(workers):
    assert workers(2).run(_memory) == [(True, True)] * 2


def _owned() -> list[object]:
    transport = make_transport("shared_memory", None, CPU)
    parameters = _parameters()
    exchange = OwnedGradientExchange(parameters, [0, 0, 1, 1, 1], transport, bucket_size=30)
    for _ in range(2):
        exchange.forget()
        exchange.begin()
        sum((dist.get_rank() + 1) * tensor.sum() for name, tensor in parameters if name != "p4").backward()
        exchange.finish()
    gradients = [None if tensor.grad is None else tensor.grad.mean().item() for _, tensor in parameters]
    exchange.close()
    transport.close()
    return gradients


def test_owned_gradients_are_kept_by_their_owner_alone(workers):
    assert workers(2).run(_owned) == [[3.0, 3.0, None, None, None], [None, None, 3.0, 3.0, None]]


def _sparse() -> str:
    transport = make_transport("gloo", None, CPU)
    table = nn.Embedding(4, 2, sparse=True)
    exchange = GradientExchange([("table.weight", table.weight)], transport, bucket_size=100)
    exchange.begin()
    with pytest.raises(PlanError) as raised:
        table(torch.tensor([1])).sum().backward()
    return str(raised.value)


def test_sparse_gradients_are_refused(workers):
    message = workers(1).run(_sparse)[0]
    assert message.startswith("the gradient of table.weight is sparse")
    assert "sparse=False" in message


def _twice() -> str:
    transport = make_transport("gloo", None, CPU)
    parameter = nn.Parameter(torch.ones(2))
    exchange = GradientExchange([("p", parameter)], transport, bucket_size=1)
    exchange.begin()
    parameter.sum().backward()
    with pytest.raises(PlanError) as raised:
        parameter.sum().backward()
    return str(raised.value)


def test_a_gradient_after_its_bucket_was_sent_is_an_error(workers):
    assert "p got a gradient after its bucket had been sent" in workers(1).run(_twice)[0]


def _broadcast() -> tuple[list[int], bool, list[int]]:
    """Five tensors of several kinds, some from worker 0 and some from worker 1, in messages of 100 bytes."""
    transport = make_transport("shared_memory", None, CPU)
    rank = dist.get_rank()
    values = [
        torch.full((60,), float(rank)),
        torch.tensor(7 + rank),
        torch.tensor([float("nan"), 1.0]),
        torch.tensor([[rank]], dtype=torch.float64).expand(3, 1),
        torch.full((2, 3), rank == 1),
    ]
    broadcast = TensorBroadcast(values, [0, 1, 0, 1, 1], transport, message_size=100)
    different = broadcast.run_and_compare()
    again = broadcast.run_and_compare()
    broadcast.close()
    transport.close()
    right = values[0].eq(0).all() and values[1] == 8 and values[3].eq(1).all() and values[4].all()
    return different, bool(right), again


def test_broadcast_overwrites_and_tells_what_differed(workers):
    assert workers(2).run(_broadcast) == [([1, 3, 4], True, []), ([0], True, [])]
