"""One step of a captured program beside one step of its model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.parallel.program import Program, capture_program


def step(model: nn.Module, call: Callable[[], Any]) -> dict[str, Tensor]:
    """Loss, gradients and buffers of one step; the model's buffers are put back."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    torch.manual_seed(0)
    output = call()
    total, weight = output if isinstance(output, tuple) else (output, 1.0)
    total.backward()
    found = {"loss": total.detach() / weight}
    found |= {f"gradient {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, buffer in model.named_buffers():
        found[f"buffer {name}"] = buffer.clone()
        buffer.copy_(before[name])
    return found


def assert_equal(model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any, **tolerance: float) -> Program:
    """Captures, and compares a step of the program with a step of the model."""
    program = capture_program(model, loss, batch)
    expected = step(model, lambda: loss(model, batch))
    torch.testing.assert_close(step(model, lambda: program(batch)), expected, **tolerance)
    return program
