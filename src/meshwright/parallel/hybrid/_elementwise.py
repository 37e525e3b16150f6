"""Whether an optimizer updates every value of a parameter by itself, so that a part of it is stepped like the whole."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ROWS, _COLUMNS = 4, 6


def is_elementwise(optimizer: Optimizer) -> bool:
    """Steps a small parameter whole and in halves, with the optimizer's own settings, and compares.

    Muon, Adafactor, LAMB and their kin take means or norms over a parameter; their step of a part is another one.
    """
    return all(_steps_alike(optimizer, group, dim=dim) for group in optimizer.param_groups for dim in (0, 1))


def _steps_alike(optimizer: Optimizer, settings: dict[str, Any], *, dim: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    value, *gradients = (torch.randn(_ROWS, _COLUMNS, generator=generator, dtype=torch.float64) for _ in range(3))
    whole = _stepped(optimizer, settings, [value], [[gradient] for gradient in gradients])
    halves = _stepped(optimizer, settings, value.chunk(2, dim), [gradient.chunk(2, dim) for gradient in gradients])
    return torch.allclose(whole[0], torch.cat(halves, dim), rtol=1e-9, atol=1e-12)


def _stepped(
    optimizer: Optimizer, settings: dict[str, Any], values: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Steps of a twin of the optimizer, which shares nothing with it but its class and settings."""
    twin = copy.copy(optimizer)
    parameters = [nn.Parameter(value.clone(memory_format=torch.contiguous_format)) for value in values]
    twin.state = defaultdict(dict)
    twin._optimizer_step_pre_hooks, twin._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    twin.param_groups = [settings | {"params": parameters}]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.contiguous()
        # of the class: a scheduler has bound the instance's to the user's optimizer
        type(twin).step(twin)  # pyrefly: ignore[missing-argument]
    return [parameter.detach() for parameter in parameters]
