"""Optimizer state in the host's memory: updates in pieces are the same updates, and what cannot be cut is refused."""

import pytest
import torch
from torch import Tensor, nn

from meshwright.cost import Batch, Strategy, Worker
from meshwright.errors import PlanError
from meshwright.parallel import StateOffload, apply

OPTIMIZERS = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=True),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "groups": lambda ps: torch.optim.Adam([{"params": ps[:2], "lr": 0.1}, {"params": ps[2:]}], lr=0.2),
}


class _Counting(torch.optim.SGD):
    """Counts its steps, and goes by their number."""

    def step(self) -> None:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data -= parameter.grad / (1 + sum(one.grad is not None for one in group["params"]))


def _trained(name: str, *, piece: int) -> tuple[list[Tensor], list[int], torch.optim.Optimizer]:
    """Parameters after 3 steps, one of them without gradients in the second; and how many updates there were in all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    seen: list[int] = []
    offload = StateOffload(optimizer, piece=piece) if piece else None
    optimizer.register_step_pre_hook(lambda *_: seen.append(sum(p.grad is not None for p in model.parameters())))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for step in range(3):
        model(torch.full((2, 4), 1.0 + step, dtype=torch.float64)).square().sum().backward()
        if step == 1:
            model[0].bias.grad = None
        present = [parameter.grad is not None for parameter in model.parameters()]
        optimizer.step()
        assert present == [parameter.grad is not None for parameter in model.parameters()]
        scheduler.step()
        optimizer.zero_grad()
    if offload is not None:
        offload.close()
    return [parameter.detach() for parameter in model.parameters()], seen, optimizer


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_pieces_update_as_the_whole(name: str) -> None:
    expected, _, _ = _trained(name, piece=0)
    found, shown, optimizer = _trained(name, piece=1)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert shown == [1] * (4 + 3 + 4)  # every parameter with a gradient by itself
    assert all(value.device.type == "cpu" for state in optimizer.state.values()
               for value in state.values() if isinstance(value, Tensor))  # fmt: skip


def test_a_large_piece_takes_all() -> None:
    _, shown, _ = _trained("adamw", piece=2**20)
    assert shown == [4, 3, 4]


@pytest.mark.parametrize("make", [_Counting, torch.optim.LBFGS])
def test_what_depends_on_other_parameters_is_refused(make: type) -> None:
    with pytest.raises(PlanError, match="cannot have its state in the host's memory"):
        StateOffload(make([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))], lr=0.1))


def test_a_closure_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    StateOffload(optimizer)
    with pytest.raises(PlanError, match="step with arguments"):
        optimizer.step(parameter.sum)


@pytest.mark.parametrize(("sharding", "optimizer"), [("none", None)])
def test_a_plan_for_a_hand_written_loop_is_refused(sharding: str, optimizer: None) -> None:
    strategy = Strategy(
        workers=(Worker(rank=0, host="h", device="cpu", threads=1),), batch=Batch(size=2, shares=(1,)),
        sharding=sharding, offload="state",
    )  # fmt: skip
    with pytest.raises(PlanError, match="own loop"):
        apply(nn.Linear(2, 2), optimizer, strategy)
