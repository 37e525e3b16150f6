"""What optimizers keep, measured; the user's own never steps."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from meshwright.errors import CaptureError
from meshwright.graph.capture_optimizer import optimizer_state


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((64, 128), (128,), (64, 128))]


@pytest.mark.parametrize(
    ("make", "kept", "fused"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0, True),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 4, True),
        (torch.optim.Adam, 8, True),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), 12, True),
        (lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9), 12, False),
        (lambda p: torch.optim.AdamW(p, fused=True), 8, True),
        (lambda p: torch.optim.AdamW(p, foreach=True), 8, True),
    ],
)
def test_bytes_per_element(make: Callable[[Any], Optimizer], kept: float, fused: bool) -> None:
    state = optimizer_state(make(parameters()))
    assert (state.bytes_per_element, state.fused) == (kept, fused)
    assert state.operations > 0


def test_half_precision_keeps_half() -> None:
    assert optimizer_state(torch.optim.Adam(parameters(torch.bfloat16))).bytes_per_element == 4


def test_groups_with_options_of_their_own() -> None:
    """Two of three equal parts with momentum (4 B each)."""
    one, two, three = (nn.Parameter(torch.zeros(50)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [one, two], "momentum": 0.9}, {"params": [three]}], lr=0.1)
    assert optimizer_state(optimizer).bytes_per_element == pytest.approx(8 / 3)


def test_factored_state_counts_by_the_true_shapes() -> None:
    """Adafactor keeps a row and a column for a matrix, (64 + 128) floats, twice, and one float per bias element."""
    state = optimizer_state(torch.optim.Adafactor(parameters()))
    assert state.bytes_per_element == pytest.approx(4 * (2 * (64 + 128) + 128) / (2 * 64 * 128 + 128))


class Reading(Optimizer):
    """Keeps its parameters twice, reads a value, and has a constructor and an attribute of its own."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, history: int) -> None:
        self.mine = list(parameters)
        self.history = history
        super().__init__(self.mine, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        del closure
        for parameter in self.mine:
            if parameter.grad is not None and float(parameter.grad.sum()) != 0:
                self.state[parameter]["past"] = [parameter.grad.clone() for _ in range(self.history)]
                parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


def test_a_custom_optimizer_that_reads_values() -> None:
    own = parameters()
    optimizer = Reading(own, history=3)
    state = optimizer_state(optimizer)
    assert (state.name, state.bytes_per_element, state.fused) == ("Reading", 12, False)
    assert all(torch.equal(parameter, torch.zeros_like(parameter)) for parameter in own)
    assert not optimizer.state


def test_schedulers_and_hooks_do_not_see_the_twin() -> None:
    optimizer = torch.optim.Adam(parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    seen = []
    optimizer.register_step_post_hook(lambda *_args: seen.append(1))
    assert optimizer_state(optimizer).bytes_per_element == 8
    assert seen == []
    assert not optimizer.state


def test_an_optimizer_that_fails_says_so() -> None:
    class Failing(Reading):
        def step(self) -> None:
            raise ValueError("only for 7 parameters")

    with pytest.raises(CaptureError) as caught:
        optimizer_state(Failing(parameters(), history=1))
    assert str(caught.value) == (
        "a step of Failing fails: ValueError: only for 7 parameters\n"
        "  because: what an optimizer keeps is measured by one step of a twin, over one parameter of each shape\n"
        "  instead: let step() accept any number of parameters, all with gradients of 1"
    )
