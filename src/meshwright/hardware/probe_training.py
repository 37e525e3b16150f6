"""What a training step costs beside its arithmetic: launching operations, autograd, the optimizer, fresh memory."""

import mmap
from collections.abc import Callable

import torch
from torch import nn

from meshwright.hardware._device import OperationRate
from meshwright.hardware.probe_timer import Timer
from meshwright.units import MIB, Bytes

CHAIN = 200  # operations in a chain, so that starting the backward is spread over many
ADAMW_BYTES: Bytes = 7 * 4  # parameter, gradient, two moments read; parameter, two moments written, in float32
SMALL_PARAMETERS = 50
LARGE_PARAMETER = 2 * 2**20  # elements
FRESH: Bytes = 32 * MIB


def overhead_rates(timer: Timer, *, device: torch.device, threads: int, processes: int) -> list[OperationRate]:
    """Time of one operation on a tiny tensor: without autograd, recorded by autograd, and its backward."""
    x = torch.ones(8, device=device)
    tracked = torch.ones(8, device=device, requires_grad=True)
    gradient = torch.ones(8, device=device)

    def chain(value: torch.Tensor) -> torch.Tensor:
        for _ in range(CHAIN):
            value = value * 1.0001
        return value

    plain, forward = timer(lambda: chain(x)) / CHAIN, timer(lambda: chain(tracked)) / CHAIN
    both = timer(lambda: chain(tracked).backward(gradient)) / CHAIN
    return [
        OperationRate(
            kind="overhead", variant=variant, threads=threads, processes=processes, bandwidth=0.0, overhead=duration
        )
        for variant, duration in (("default", plain), ("forward", forward), ("backward", max(both - forward, 0.0)))
    ]


def optimizer_rates(timer: Timer, *, device: torch.device, threads: int, processes: int) -> list[OperationRate]:
    """AdamW as torch runs it by default and fused: bytes of state over time, and time per parameter tensor."""
    rates = []
    for kind, fused in (("optimizer", None), ("optimizer_fused", True)):
        small = timer(_update(elements=8, count=SMALL_PARAMETERS, fused=fused, device=device)) / SMALL_PARAMETERS
        large = timer(_update(elements=LARGE_PARAMETER, count=1, fused=fused, device=device))
        touched = ADAMW_BYTES * LARGE_PARAMETER
        rates.append(
            OperationRate(
                kind=kind, threads=threads, processes=processes, size=touched,
                bandwidth=touched / max(large - small, 0.1 * large), overhead=small,
            )
        )  # fmt: skip
    return rates


def allocation_rate(timer: Timer, *, threads: int, processes: int) -> OperationRate:
    """Bytes of fresh memory over the time that touching them takes beyond touching them again."""
    kept = torch.empty(FRESH, dtype=torch.uint8)
    again = timer(lambda: kept.fill_(1))

    def touch() -> None:
        with mmap.mmap(-1, FRESH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            view = torch.frombuffer(memory, dtype=torch.uint8)
            view.fill_(1)
            del view

    first = timer(touch)
    return OperationRate(
        kind="allocation", threads=threads, processes=processes, size=FRESH,
        bandwidth=FRESH / max(first - again, 0.1 * first), overhead=0.0,
    )  # fmt: skip


def load_optimizer() -> None:
    """Loads what torch loads when the first optimizer is made (its compiler), which takes seconds and 100 MiB."""
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])


def tiny_step() -> float:
    """Trains a tiny model for a step, so that what torch loads on first use is loaded; gives the loss."""
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    loss = model(torch.ones(4, 8)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def _update(*, elements: int, count: int, fused: bool | None, device: torch.device) -> Callable[[], object]:
    parameters = [nn.Parameter(torch.ones(elements, device=device)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return torch.optim.AdamW(parameters, fused=fused).step
