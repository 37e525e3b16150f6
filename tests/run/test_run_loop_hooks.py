"""What follows a script's optimizers may be collected as garbage at any moment."""

import gc
from contextlib import nullcontext

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from meshwright.run.loop._own_optimizer import OwnOptimizers


def test_a_follower_that_is_collected_within_another_optimizers_step_does_not_end_it() -> None:
    """torch goes through its hooks for all optimizers when the collection happens."""
    followers: list[OwnOptimizers] = []

    def collects(*_: object) -> None:
        followers.clear()
        gc.collect()

    handle = register_optimizer_step_pre_hook(collects)
    follower = OwnOptimizers({}, None, held=list, stepping=nullcontext, stepped=lambda: None)
    close = follower.close
    followers.append(follower)
    del follower
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    torch.optim.SGD([parameter], lr=0.5).step()
    handle.remove()
    close()
    assert not followers
    assert parameter.item() == 0.5
