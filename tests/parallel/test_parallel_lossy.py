"""Training steps with gradients in 16 bits and compressed ones: close to one device, and the same on every worker."""

import pytest
import torch
import torch.distributed as dist
from parallel_jobs import VOCABULARY, Tied

from meshwright.cost import Batch, Compression, Exchange, Mesh, Precision, Sharding, Strategy, Worker
from meshwright.errors import PlanError
from meshwright.exchange import Wire
from meshwright.exchange.compression import ByteBlocks, Codec
from meshwright.parallel import apply
from meshwright.parallel._encoded_shards import EncodedGather, EncodedScatter

STEPS = 20


def _strategy(size: int, *, sharding: Sharding, compression: Compression | None, reduction: str) -> Strategy:
    return Strategy(
        workers=tuple(Worker(rank=rank, host="here", device="cpu", threads=1) for rank in range(size)),
        mesh=Mesh(dp_replicate=size) if sharding == "none" else Mesh(dp_shard=size),
        batch=Batch(size=8, shares=(1,) * size),
        sharding=sharding,
        precision=Precision(reduction=reduction),
        exchange=Exchange(bucket_size=500, compression=compression),
    )


def _loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _trained(sharding: Sharding, compression: Compression | None, reduction: str) -> dict[str, float]:
    """Losses at the end, how far the first gradients are off one device's, and how far workers are apart."""
    torch.manual_seed(1)
    model = Tied()
    reference = Tied()
    reference.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    rank, size = dist.get_rank(), dist.get_world_size()
    job = apply(model, optimizer, _strategy(size, sharding=sharding, compression=compression, reduction=reduction))
    tokens = torch.randint(VOCABULARY, (8, 5), generator=torch.Generator().manual_seed(5))
    share = tokens.tensor_split(size)[rank]
    result = {}
    for step in range(STEPS):
        job.zero_gradients()
        with job.micro_batch(last=True):
            (_loss(job.model, share) * (len(share) / 8)).backward()
        job.reduce(1.0)
        if step == 0:
            _loss(reference, tokens).backward()
            found = job.full_gradients()
            exact = {name: item.grad for name, item in reference.named_parameters()}
            assert found["unused.weight"] is None
            pairs = [(found[name], grad) for name, grad in exact.items() if grad is not None]
            off = torch.stack([(mine - grad).norm() for mine, grad in pairs]).norm()
            result["gradients"] = (off / torch.stack([grad.norm() for _, grad in pairs]).norm()).item()
        job.update()
    result["loss"] = _loss(job.model, tokens).item()
    flat = torch.cat([item.flatten() for item in job.full_parameters().values()])
    others = [torch.empty_like(flat) for _ in range(size)]
    dist.all_gather(others, flat)
    result["apart"] = max((other - flat).abs().max().item() for other in others)
    job.close()
    return result


CHOICES = {
    "int8": (Compression(method="int8", block=64), "as_written", 0.02),
    "int4": (Compression(method="int4", block=64), "as_written", 0.2),
    "powersgd": (Compression(method="powersgd", rank=2), "as_written", 0.9),
    "top_k": (Compression(method="top_k", share=0.2, block=64), "as_written", 0.9),
    "random_k": (Compression(method="random_k", share=0.3, block=64), "as_written", 1.0),
    "sign": (Compression(method="sign", block=64, momentum=0.5), "as_written", 1.5),
    "bfloat16": (None, "bfloat16", 0.01),
    "float16": (None, "float16", 0.001),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("size", [2, 3])
def test_losses_fall_as_they_do_exactly(workers, size, name):
    compression, reduction, most = CHOICES[name]
    (exact, *_) = workers(size).run(_trained, "none", None, "as_written")
    for found in workers(size).run(_trained, "none", compression, reduction):
        assert found["apart"] == 0.0
        assert found["gradients"] < most
        assert found["loss"] < exact["loss"] + 0.1


@pytest.mark.parametrize("name", ["int8", "top_k", "bfloat16", "powersgd"])
@pytest.mark.parametrize("sharding", ["optimizer", "gradients"])
def test_shards_of_the_optimizer_and_of_gradients(workers, sharding, name):
    compression, reduction, most = CHOICES[name]
    for found in workers(3).run(_trained, sharding, compression, reduction):
        assert found["apart"] == 0.0
        assert found["gradients"] < most


def _refused(compression: Compression | None, reduction: str) -> str:
    try:
        _trained("parameters", compression, reduction)
    except PlanError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("size", [2, 3])
def test_sharded_parameters_travel_in_blocks(workers, size, name):
    """All workers compute with the same rounded parameters; gradients are off by what rounding both leaves."""
    compression, reduction, most = CHOICES[name]
    (exact, *_) = workers(size).run(_trained, "none", None, "as_written")
    for found in workers(size).run(_trained, "parameters", compression, reduction):
        assert found["apart"] == 0.0
        assert 0 < found["gradients"] < 3 * most
        assert found["loss"] < exact["loss"] + 0.1


@pytest.mark.parametrize("name", ["powersgd", "top_k", "sign", "bfloat16"])
def test_other_ways_to_send_shards_are_refused(workers, name):
    compression, reduction, _ = CHOICES[name]
    for text in workers(2).run(_refused, compression, reduction):
        assert "sharded parameters" in text


class Exact(Codec):
    """All bits."""

    block = 1

    def compress(self, values, *, draw):
        del draw
        return values.clone().view(torch.uint8)

    def decompress(self, message, into, *, weight, draw):
        del draw
        into.add_(message.view(torch.float32), alpha=weight)

    def refine(self):
        return False


def _exchanged(codec: Codec, steps: int) -> dict[str, float]:
    """How far gathered values, scattered sums, and sums over the steps with what is carried are off exact ones."""
    rank, size = dist.get_rank(), dist.get_world_size()
    wire = Wire()
    gather, scatter = EncodedGather(wire, codec), EncodedScatter(wire, codec)
    given, received = torch.zeros(size * 100), torch.zeros(100)
    found = {"gathered": 0.0, "scattered": 0.0}
    for step in range(steps):
        everyones = [
            torch.randn(size * 100, generator=torch.Generator().manual_seed(9 * step + r)) for r in range(size)
        ]
        shards, summed = torch.empty(size * 100), torch.empty(100)
        gather(shards, everyones[rank][:100])
        scatter(summed, everyones[rank])
        exact = torch.stack(everyones).sum(0)
        found["gathered"] = max(
            found["gathered"], float((shards - torch.cat([e[:100] for e in everyones])).abs().max())
        )
        found["scattered"] = max(found["scattered"], float((summed - exact.view(size, -1)[rank]).abs().max()))
        given += exact
        received += summed
    assert scatter.carried is not None
    left = scatter.carried.clone()
    wire.sum(left)
    found["over the steps"] = float((received + left[rank, :100] - given.view(size, -1)[rank]).abs().max())
    wire.close()
    return found


def test_what_is_left_out_of_scattered_gradients_is_sent_later(workers):
    """Identical with all bits; in 8 bits of a range of about 6, a message is off by up to 6 / 255 / 2 a worker."""
    for found in workers(3).run(_exchanged, Exact(), 3):
        assert max(found.values()) < 1e-5
    for found in workers(3).run(_exchanged, ByteBlocks(64), 5):
        assert 0 < found["gathered"] < 0.02
        assert 0 < found["scattered"] < 0.1
        assert found["over the steps"] < 1e-4
