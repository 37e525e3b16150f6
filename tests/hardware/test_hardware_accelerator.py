"""The accelerator's part of the probe, with the processor standing in for an accelerator: no test needs a GPU."""

import pytest
import torch

from meshwright.errors import HardwareError
from meshwright.hardware import probe_accelerator, probe_operations, probe_training
from meshwright.hardware.probe_accelerator import accelerator, first_accelerator, num_accelerators
from meshwright.units import GIB


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that answers as an accelerator with 8 GiB, of which 1 GiB is taken."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda _device: None)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _device: (7 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda _device: GIB // 4)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(probe_accelerator, "SIZES", (32, 64))
    monkeypatch.setattr(probe_accelerator, "TRANSFER", 2**16)
    monkeypatch.setattr(probe_operations, "SIZES", (2**16,))
    monkeypatch.setattr(probe_training, "LARGE_PARAMETER", 2**12)
    monkeypatch.setattr(probe_accelerator, "layer_rates", lambda _timer, **_setting: [])


@pytest.mark.usefixtures("stand_in")
def test_an_accelerator_has_memory_context_and_rates() -> None:
    device = accelerator(0.0)
    assert num_accelerators() == 2
    assert device.memory == 8 * GIB
    assert device.context == GIB - GIB // 4
    assert device.source == "measured"
    assert {rate.size for rate in device.matrix_rates} == {32, 64}
    copies = {rate.variant for rate in device.operation_rates if rate.kind == "copy"}
    assert copies == {"default", "strided", "to_device", "from_device"}
    assert {rate.threads for rate in device.operation_rates} == {1}


def test_without_accelerators_there_is_none_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert num_accelerators() == 0
    with pytest.raises(HardwareError, match="torch can use no accelerator here"):
        first_accelerator()
