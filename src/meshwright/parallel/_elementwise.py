"""Whether an optimizer updates every value of a parameter by itself, so that a part of it is stepped like the whole."""

from typing import Any

import torch
from torch.optim import Optimizer

from meshwright.parallel._twin import stepped_twin

_ROWS, _COLUMNS = 4, 6


def is_elementwise(optimizer: Optimizer) -> bool:
    """Steps a small parameter whole and in halves, with the optimizer's own settings, and compares.

    Muon, Adafactor, LAMB and their kin take means or norms over a parameter; their step of a part is another one.
    """
    return all(_steps_alike(optimizer, group, dim=dim) for group in optimizer.param_groups for dim in (0, 1))


def _steps_alike(optimizer: Optimizer, settings: dict[str, Any], *, dim: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    value, *gradients = (torch.randn(_ROWS, _COLUMNS, generator=generator, dtype=torch.float64) for _ in range(3))
    whole = stepped_twin(optimizer, settings, [value], [[gradient] for gradient in gradients])
    halves = stepped_twin(optimizer, settings, value.chunk(2, dim), [gradient.chunk(2, dim) for gradient in gradients])
    return torch.allclose(whole[0], torch.cat(halves, dim), rtol=1e-9, atol=1e-12)
