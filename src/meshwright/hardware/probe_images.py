"""How fast operations on images run that are far slower than their bytes suggest: batch normalization and pooling.

On a CPU, torch's forward of both is not vectorised over rows of pixels; with channels last it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from meshwright.hardware._device import OperationRate
from meshwright.hardware.probe_timer import Timer
from meshwright.units import Bytes

FLOAT: Bytes = 4
INDEX: Bytes = 8
# Batch, channels, edge: the inside of a small classifier of images (4 MiB).
SHAPE = (64, 64, 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCase:
    """One operation to time.

    Args:
        kind: which rate it gives.
        variant: layout; `backward` before it for the backward.
        touched: bytes it reads and writes (B).
        run: does it once.
    """

    kind: str
    variant: str
    touched: Bytes
    run: Callable[[], object]


def image_rates(timer: Timer, *, device: torch.device, threads: int, processes: int) -> list[OperationRate]:
    """B/s of batch normalization and pooling, in both layouts of images."""
    return [
        OperationRate(
            kind=case.kind, threads=threads, processes=processes, size=case.touched, variant=case.variant,
            bandwidth=case.touched / timer(case.run), overhead=0.0,
        )
        for case in image_cases(device)
    ]  # fmt: skip


def image_cases(device: torch.device) -> Iterator[ImageCase]:
    """Every operation in every layout."""
    batch, channels, edge = SHAPE
    weight, bias = torch.ones(channels, device=device), torch.zeros(channels, device=device)
    for variant, layout in (("default", torch.contiguous_format), ("channels_last", torch.channels_last)):
        x = torch.randn(batch, channels, edge, edge, device=device).to(memory_format=layout)
        size = x.numel() * FLOAT
        yield ImageCase(
            kind="pooling", variant=variant, touched=size + x.numel() // 4 * (FLOAT + INDEX), run=_pooling(x)
        )
        yield ImageCase(
            kind="batch_normalization", variant=variant, touched=2 * size, run=_normalization(x, weight, bias)
        )
        backward = "backward" if variant == "default" else f"backward_{variant}"
        yield ImageCase(
            kind="batch_normalization", variant=backward, touched=3 * size, run=_normalization_backward(x, weight, bias)
        )


def _pooling(x: Tensor) -> Callable[[], object]:
    return lambda: F.max_pool2d(x, 2, return_indices=True)


def _normalization(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object]:
    return lambda: F.batch_norm(x, None, None, weight, bias, training=True)


def _normalization_backward(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    y = F.batch_norm(x, None, None, weight, bias, training=True)
    gradient = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, x, gradient, retain_graph=True)
