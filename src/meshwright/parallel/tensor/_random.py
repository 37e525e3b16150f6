"""Random operations on parts: other numbers on every worker, without the workers' generators going apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from meshwright.parallel.program import Target

# Keeps the seeds of neighbouring workers far apart.
_STRIDE = 0x9E3779B97F4A7C15


class PartRandom(Target):
    """Runs a random operation on this worker's part of a tensor.

    The default generator stands alike on all workers of an axis, so that whole tensors get equal masks. A part's
    numbers come from a seed that is drawn from it and differs by worker; the generator then goes on alike. Computing
    again with the generator put back gives the same numbers again.

    Args:
        function: the operation.
        coordinate: this worker's number on the axis.
    """

    def __init__(self, function: Callable[..., Tensor], coordinate: int) -> None:
        super().__init__(f"part_{getattr(function, '__name__', 'random').replace('.', '_')}")
        self._function = function
        self._coordinate = coordinate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation gives."""
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        seed = int(torch.randint(2**62, (), device="cpu"))
        with _seeded(device, (seed + self._coordinate * _STRIDE) % 2**63):
            return self._function(*args, **kwargs)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Other random numbers on a device for a while."""
    generator: Any = torch if device.type == "cpu" else torch.get_device_module(device)
    before = generator.get_rng_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_rng_state(before)
