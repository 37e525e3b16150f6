"""How fast layers that are one operation to torch run: convolution, attention, recurrence; forward and backward."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshwright.hardware._device import OperationRate
from meshwright.hardware.probe_timer import Timer
from meshwright.units import FLOP, Bytes

FLOAT: Bytes = 4
# Batch, channels, edge: the first layers of a digit classifier, a middle and a late stage of a ResNet.
CONVOLUTIONS = ((64, 16, 16), (4, 64, 56), (4, 256, 14))
# Batch, heads, sequence, dimension of a head.
ATTENTIONS = ((16, 4, 64, 32), (8, 8, 256, 64))
# Batch, sequence and hidden size.
RECURRENCES = ((32, 32, 64), (32, 32, 256))


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCase:
    """One layer to run forward and backward.

    Args:
        kind: which rate it gives.
        flops: of forward and backward together (FLOP).
        touched: bytes that the forward reads and writes (B).
        forward: gives the layer's output; what it is made of wants gradients.
        variant: how it is run.
    """

    kind: str
    flops: FLOP
    touched: Bytes
    forward: Callable[[], Tensor]
    variant: str = "default"


def layer_rates(timer: Timer, *, device: torch.device, threads: int, processes: int) -> list[OperationRate]:
    """FLOP/s of convolution, attention and recurrence over forward and backward, by size."""
    return [
        OperationRate(
            kind=case.kind, threads=threads, processes=processes, size=case.touched, variant=case.variant,
            bandwidth=case.flops / timer(_forward_and_backward(case)), overhead=0.0,
        )
        for case in layer_cases(device)
    ]  # fmt: skip


def layer_cases(device: torch.device) -> Iterator[LayerCase]:
    """Every layer at its sizes."""
    for batch, channels, edge in CONVOLUTIONS:
        for variant, layout in (("default", torch.contiguous_format), ("channels_last", torch.channels_last)):
            yield _convolution(batch, channels, edge, variant=variant, layout=layout, device=device)
    for shape in ATTENTIONS:
        yield _attention(shape, device=device)
    for batch, sequence, hidden in RECURRENCES:
        yield _recurrence(batch, sequence, hidden, device=device)


def _forward_and_backward(case: LayerCase) -> Callable[[], None]:
    gradient = torch.ones_like(case.forward())
    return lambda: case.forward().backward(gradient)


def _convolution(
    batch: int, channels: int, edge: int, *, variant: str, layout: torch.memory_format, device: torch.device
) -> LayerCase:
    """A 3 × 3 convolution; each of its two gradients costs what the forward costs."""
    x = torch.randn(batch, channels, edge, edge, device=device).to(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3, device=device).to(memory_format=layout).requires_grad_()
    flops = 2 * x.numel() * channels * 9
    touched = (2 * x.numel() + weight.numel()) * FLOAT
    return LayerCase(
        kind="convolution", flops=3 * flops, touched=touched, variant=variant,
        forward=lambda: F.conv2d(x, weight, padding=1),
    )  # fmt: skip


def _attention(shape: tuple[int, int, int, int], *, device: torch.device) -> LayerCase:
    """Two products forward; five backward, because the scores are computed again instead of kept."""
    query, key, value = (torch.randn(*shape, device=device, requires_grad=True) for _ in range(3))
    batch, heads, sequence, width = shape
    product = 2 * batch * heads * sequence**2 * width
    return LayerCase(
        kind="attention", flops=7 * product, touched=4 * query.numel() * FLOAT,
        forward=lambda: F.scaled_dot_product_attention(query, key, value),
    )  # fmt: skip


def _recurrence(batch: int, sequence: int, hidden: int, *, device: torch.device) -> LayerCase:
    """An LSTM with as many inputs as units: eight square products a step, and twice that backward."""
    x = torch.randn(batch, sequence, hidden, device=device, requires_grad=True)
    layer = nn.LSTM(hidden, hidden, batch_first=True, device=device)
    return LayerCase(
        kind="recurrent", flops=3 * 2 * batch * sequence * hidden * hidden * 8,
        touched=(2 * x.numel() + 8 * hidden * hidden) * FLOAT, forward=lambda: layer(x)[0],
    )  # fmt: skip
