"""`mw.parallel(model)` in a loop written by hand, on two workers against one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import meshwright as mw
from meshwright.errors import UsageError


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3, bias=False)).double()


def _trained(seed: int, *, alone: bool) -> list[torch.Tensor]:
    """Two backwards before every step, a loss that is no mean, and a last batch of one example per two workers."""
    torch.manual_seed(seed)
    own = _model()
    model = own if alone else mw.parallel(own)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step, size in enumerate((6, 5, 2)):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        for _ in range(2):
            x = torch.randn(size, 5, generator=generator, dtype=torch.float64)
            output = model(x)
            assert output.shape == (size, 3)
            (output.logsumexp(0) * output.square().sum()).sum().sqrt().backward()
        optimizer.step()
    return [tensor.detach() for tensor in own.state_dict().values()]


def _compared() -> float:
    found, wanted = _trained(dist.get_rank(), alone=False), _trained(0, alone=True)
    return max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("size", [2, 3])
def test_a_hand_written_loop_equals_one_device(workers, size):
    assert max(workers(size).run(_compared)) < 1e-9


def test_one_worker_calls_the_model_itself():
    model = _model()
    x = torch.randn(4, 5, dtype=torch.float64)
    assert torch.equal(mw.parallel(model).eval()(x), model.eval()(x))


def _loss_inside() -> str:
    class Scalar(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()

    with pytest.raises(UsageError) as raised:
        mw.parallel(Scalar(2, 2))(torch.ones(4, 2))
    return str(raised.value)


def test_a_model_that_gives_its_loss_is_refused(workers):
    for message in workers(2).run(_loss_inside):
        assert "output has shape []" in message
        assert "mw.parallel(model, optimizer, loss)" in message
