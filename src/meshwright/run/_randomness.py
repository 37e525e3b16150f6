"""Random numbers: alike on every worker outside the step, independent inside it.

A script draws its global batches, and shuffles, from torch's generator: every worker must draw the same. Dropout inside
the step must differ, because each worker has other examples. So each worker's step draws from a stream of its own,
reproducible from the script's seed and the rank, and puts the script's stream back.
"""

import random
import secrets
from types import ModuleType

import numpy
import torch
import torch.distributed as dist


class RankStream:
    """A rank's own stream of random numbers, current within `with`.

    Args:
        device: where the model is.
        rank: of this worker.
    """

    def __init__(self, device: torch.device, rank: int) -> None:
        seed = (torch.initial_seed() * 1_000_003 + rank + 1) % 2**63
        self._accelerator = None if device.type == "cpu" else torch.get_device_module(device)
        self._device = device
        outside = self._states()
        torch.default_generator.manual_seed(seed)
        if self._accelerator is not None:
            self._accelerator.manual_seed(seed)
        self._inside = self._states()
        self._restore(outside)

    def __enter__(self) -> None:
        self._outside = self._states()
        self._restore(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = self._states()
        self._restore(self._outside)

    def state(self) -> list[torch.Tensor]:
        """What `resume` needs to continue the stream."""
        return self._inside

    def resume(self, state: list[torch.Tensor]) -> None:
        """Continues a stream at a stored state."""
        self._inside = state

    def _states(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if isinstance(self._accelerator, ModuleType):
            states.append(self._accelerator.get_rng_state(self._device))
        return states

    def _restore(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if isinstance(self._accelerator, ModuleType):
            self._accelerator.set_rng_state(states[1], self._device)


def share_chance() -> None:
    """Seeds Python's and numpy's generators alike on every worker, for scripts that leave them unseeded.

    torch's own starts from a constant and needs nothing.
    """
    seed = torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(secrets.randbits(63)))
    dist.broadcast(seed, src=0)
    random.seed(int(seed))
    numpy.random.seed(int(seed))
