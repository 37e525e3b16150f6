"""What this host's accelerators do, through `torch.accelerator`, whoever made them."""

from collections.abc import Iterator

import torch
from torch import distributed as dist

from meshwright.errors import HardwareError
from meshwright.hardware._device import Device, OperationRate
from meshwright.hardware.probe_images import image_rates
from meshwright.hardware.probe_layers import layer_rates
from meshwright.hardware.probe_matrices import DTYPES, MatrixCase, matrix_rates
from meshwright.hardware.probe_operations import operation_rates
from meshwright.hardware.probe_timer import Timer
from meshwright.hardware.probe_training import optimizer_rates, overhead_rates
from meshwright.units import MIB, Bytes, Seconds

SIZES = (256, 1024, 4096, 8192)
TRANSFER: Bytes = 64 * MIB
SHORTEST: Seconds = 2e-3  # waiting for the device costs about 10 µs
LONGEST: Seconds = 0.5  # a product that would take longer is left out


def num_accelerators() -> int:
    """Accelerators that torch can use here."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def accelerator_backend() -> tuple[str, str]:
    """The process group's backend for this host's accelerators, and their device type."""
    kind = first_accelerator().type
    return dist.get_default_backend_for_device(kind), kind


def first_accelerator() -> torch.device:
    """The first accelerator.

    Raises:
        HardwareError: torch can use none.
    """
    found = torch.accelerator.current_accelerator()
    if found is None:
        raise HardwareError("torch can use no accelerator here", command="meshwright hardware")
    return torch.device(found.type, 0)


def accelerator(budget: Seconds) -> Device:
    """The first accelerator, measured; a host's accelerators are of one kind.

    Its context is what is taken of its memory before any tensor, by this process and by others.

    Args:
        budget: for one timed piece of work (s).
    """
    device = first_accelerator()
    torch.zeros(1, device=device)
    free, total = torch.accelerator.get_memory_info(device)
    taken = max(0, total - free - torch.accelerator.memory_reserved(device))
    timer = Timer(budget=budget, shortest=SHORTEST, finished=lambda: torch.accelerator.synchronize(device))
    setting = {"device": device, "threads": 1, "processes": 1}
    return Device(
        kind=device.type,
        name=accelerator_name(device),
        memory=total,
        context=taken,
        source="measured",
        matrix_rates=tuple(matrix_rates(timer, _cases(), most=LONGEST, **setting)),
        operation_rates=(
            *overhead_rates(timer, **setting),
            *operation_rates(timer, **setting),
            *layer_rates(timer, **setting),
            *image_rates(timer, **setting),
            *optimizer_rates(timer, **setting),
            *_transfer_rates(timer, device),
        ),
    )


def accelerator_name(device: torch.device) -> str:
    """The maker's name where the backend tells it, else its type."""
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else device.type


def _cases() -> Iterator[MatrixCase]:
    for dtype in DTYPES:
        for size in SIZES:
            yield MatrixCase(dtype=dtype, library="default", size=size)


def _transfer_rates(timer: Timer, device: torch.device) -> list[OperationRate]:
    """Copies between pinned host memory and the accelerator."""
    here = torch.ones(TRANSFER // 4).pin_memory()
    there = torch.ones(TRANSFER // 4, device=device)
    durations = {
        "to_device": timer(lambda: there.copy_(here, non_blocking=True)),
        "from_device": timer(lambda: here.copy_(there, non_blocking=True)),
    }
    return [
        OperationRate(kind="copy", variant=variant, size=TRANSFER, bandwidth=TRANSFER / duration, overhead=0.0)
        for variant, duration in durations.items()
    ]
