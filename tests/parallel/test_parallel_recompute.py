"""Blocks computed twice: the same gradients, random numbers and buffers as computed once."""

import copy
from dataclasses import replace

import pytest
import torch
from parallel_jobs import Case, Tied, strategy
from torch import nn

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.parallel import apply


def _alone(recompute: tuple[str, ...]) -> Strategy:
    return replace(strategy(Case(shares=(1,))), recompute=recompute)


class Noisy(nn.Module):
    """A block with dropout and a running buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return nn.functional.dropout(torch.tanh(self.inner(x)), 0.5, self.training)


def _noisy(recompute: tuple[str, ...]) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    model = nn.Sequential(Noisy(), Noisy())
    job = apply(model, None, _alone(recompute))
    assert ("forward" in model[0].__dict__) == bool(recompute)
    assert job.model is model
    x = torch.ones(3, 4)
    model(x).sum().backward()
    return [tensor.grad.sum().item() for tensor in model.parameters()], model[0].seen.item(), torch.rand(()).item()


def test_recomputation_repeats_dropout_and_moves_buffers_once():
    plain, recomputed = _noisy(()), _noisy(("0", "1"))
    assert recomputed == plain
    assert recomputed[1] == 1.0


def test_a_copy_of_a_recomputed_block_is_plain():
    model = nn.Sequential(Noisy())
    job = apply(model, None, _alone(("0",)))
    twin = copy.deepcopy(model)
    assert twin[0].forward.__self__ is twin[0]
    assert list(twin.state_dict()) == list(model.state_dict()) == ["0.seen", "0.inner.weight", "0.inner.bias"]
    job.close()


class Cached(nn.Module):
    """A block that appends to the cache it is handed, as those of `transformers` do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x, past_key_values=None, use_cache=False):
        if past_key_values is not None:
            past_key_values.append(x)
            x = torch.cat(past_key_values) if use_cache else x
        return self.inner(x)


def test_a_cache_is_left_out_of_recomputed_blocks():
    model = nn.Sequential(Cached())
    job = apply(model, None, _alone(("0",)))
    cache: list[torch.Tensor] = []
    model[0](torch.ones(2, 4), past_key_values=cache, use_cache=True).sum().backward()
    assert cache == []
    job.close()


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(PlanError, match=r"recomputes 'layer\.0', which Tied does not have") as raised:
        apply(Tied(), None, _alone(("layer.0",)))
    assert raised.value.alternatives == ("did you mean 'layers.0'?",)
