"""Who draws the masks of dropout on a CPU: torch's serial generator, or a faster one that torch's seeds.

`Tensor.bernoulli_` draws 53 bits per element from a Mersenne twister, on one thread however many there are: 5 ns per
element, a seventh of a BERT's step. SFC64 (numpy's) draws the 32 bits that are enough in a fifth of the time.
"""

from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from meshwright.numerics._override import cpu_kernels_replaced

Source = Literal["default", "sfc64"]

# Seeding costs about 15 µs, which a mask of 2¹⁴ elements wins back five times.
_SMALLEST_MASK = 2**14
_LEVELS = 2**32


def random_applied(source: Source) -> AbstractContextManager[None]:
    """A context in which `source` draws large Bernoulli masks on the CPU: other masks of the same distribution.

    Every mask's seed is drawn from torch's generator (the one passed, or the default one), so that `manual_seed`,
    saved generator states and the recomputation of activations give the same masks again. A probability is rounded
    to a multiple of 2⁻³².
    """
    if source == "default":
        return nullcontext()
    return cpu_kernels_replaced({"bernoulli_.float": _bernoulli})


def _bernoulli(original: Any) -> FunctionType:
    def bernoulli(keys: Any, mask: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
        level = round(p * _LEVELS)
        if mask.numel() < _SMALLEST_MASK or not 0 < level < _LEVELS:
            return original.call_boxed(keys, mask, p, generator=generator)
        seed = torch.empty(2, dtype=torch.int64).random_(generator=generator)
        drawn = _draw(mask.numel(), seed).view(mask.shape)
        if mask.dtype.is_complex:
            return mask.copy_(torch.lt(drawn, level - _LEVELS // 2))
        return torch.lt(drawn, level - _LEVELS // 2, out=mask)

    return bernoulli


def _draw(count: int, seed: Tensor) -> Tensor:
    """`count` integers, uniform over all of int32."""
    generator = np.random.Generator(np.random.SFC64(seed.numpy().view(np.uint64)))
    words = generator.integers(0, 2**64 - 1, (count + 1) // 2, dtype=np.uint64, endpoint=True)
    return torch.from_numpy(words.view(np.int32))[:count]
