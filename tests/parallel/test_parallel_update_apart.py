"""Shards beside whole tensors in one group of an optimizer: torch's fused call takes no such mixture."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from meshwright.parallel._shards import update_apart


@pytest.fixture
def mesh():
    """One worker is enough: a shard is a shard."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "form", "kept"),
    [(torch.optim.AdamW, "fused", True), (torch.optim.SGD, "foreach", True), (torch.optim.SGD, "fused", False)],
)
def test_what_no_single_call_takes_is_updated_one_by_one(mesh, kind, form, kept):
    """A group of a shard and a whole tensor loses its form; one of shards alone keeps what torch has for shards."""
    shard, other = (nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)])) for _ in range(2))
    whole, plain = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = kind([{"params": [shard, whole]}, {"params": [other]}], lr=0.1, **{form: True})
    written = kind([plain], lr=0.1)
    for tensor in (shard, other, whole, plain):
        tensor.grad = torch.ones_like(tensor)
    with pytest.raises(RuntimeError, match=r"mixed torch.Tensor and DTensor|sharding strategy"):
        kind([shard, whole], lr=0.1, **{form: True}).step()
    handle = optimizer.register_step_pre_hook(update_apart)
    optimizer.step()
    written.step()
    handle.remove()
    for tensor in (shard.to_local(), other.to_local(), whole):
        torch.testing.assert_close(tensor, plain)
    assert [group[form] for group in optimizer.param_groups] == [False, kept]
