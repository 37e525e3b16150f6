"""Programs for every signature, compared with their model before anything is split."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from program_steps import step
from torch import Tensor, nn

from meshwright.errors import ProgramError
from meshwright.parallel.program import Program, ProgramStore, _self_check, agrees, capture_program


class Doubled(torch.autograd.Function):
    """Its backward is what autograd would do."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Reversed(Doubled):
    """Its backward is not."""

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return nn.functional.dropout(self.function(self.linear(x)), 0.5)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def test_a_custom_function_is_inlined_where_autograd_gives_its_gradient() -> None:
    store = ProgramStore(Custom(Doubled.apply), loss)
    assert store.program(torch.randn(8, 4)).custom_functions == ("Doubled",)


def test_a_custom_function_with_another_backward_is_declined() -> None:
    torch.manual_seed(0)  # of 200 draws 5 have the bias as the worst
    with pytest.raises(ProgramError, match=r"gradient by .* \(worst: linear\.weight\)") as raised:
        ProgramStore(Custom(Reversed.apply), loss).program(torch.randn(8, 4))
    assert "custom autograd functions: Reversed" in raised.value.cause


def test_a_check_leaves_everything_as_it_was() -> None:
    model, batch = Custom(Doubled.apply), torch.randn(8, 4)
    calls, state = model.calls, torch.get_rng_state()
    assert agrees(capture_program(model, loss, batch), model, loss, batch).equal
    assert model.calls is calls
    assert float(calls) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert model.linear.weight.grad is None


class Remembering(nn.Module):
    """Leaves something in itself at every call."""

    def __init__(self, *, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.kind = kind
        self.count = 0
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.kind == "counter":
            self.count += 1
            return y * self.count
        if self.kind == "cache":
            self.state = torch.arange(4.0) if self.state is None else self.state
            return y + self.state
        y = y if self.state is None else y + self.state
        self.state = y.detach()
        return y


@pytest.mark.parametrize("kind", ["counter", "state"])
def test_what_a_forward_carries_on_in_python_is_declined(kind: str) -> None:
    model = Remembering(kind=kind)
    with pytest.raises(ProgramError, match="computes something else than the model: loss off by"):
        ProgramStore(model, loss).program(torch.randn(8, 4))
    assert (model.count, model.state) == (0, None)


def test_a_cache_is_no_state() -> None:
    model = Remembering(kind="cache")
    ProgramStore(model, loss).program(torch.randn(8, 4))
    assert model.state is None


def test_sparse_gradients_are_compared() -> None:
    model = nn.Embedding(9, 4, sparse=True)
    assert agrees(capture_program(model, loss, batch := torch.randint(9, (8, 3))), model, loss, batch).equal


def test_a_step_that_does_not_fit_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Custom(Reversed.apply)
    batch = torch.randn(8, 4)
    program = capture_program(model, loss, batch)
    computed = sum(node.meta["val"].nbytes for node in program.nodes if node.op == "call_function")
    needed = 2 * (4 * 4 + 4) * 4 + computed
    monkeypatch.setattr(_self_check, "free_memory", lambda _: 2 * needed)
    assert _self_check.fits_whole(program, model)
    monkeypatch.setattr(_self_check, "free_memory", lambda _: 2 * needed - 1)
    assert not _self_check.fits_whole(program, model)
    with pytest.raises(ProgramError, match="uses custom autograd functions: Reversed") as raised:
        ProgramStore(model, loss).program(batch)
    assert "comparing its gradients with the model's does not fit" in raised.value.cause


def test_numbers_drawn_by_python_are_declined() -> None:
    def scaled(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).mean() * random.random()

    state = random.getstate()
    with pytest.raises(ProgramError, match="draws numbers from Python's random"):
        capture_program(nn.Linear(4, 4), scaled, torch.randn(8, 4))
    assert random.getstate() == state


def test_uneven_batches_get_programs_of_their_own_transformed_alike() -> None:
    model = nn.Linear(4, 4)
    seen = []

    def transformation(program: Program) -> Program:
        seen.append(program.batch_size)
        return replace(program, batch_size=-program.batch_size)

    store = ProgramStore(model, loss, transformation=transformation)
    for examples in (8, 8, 3, 8, 3):
        batch = torch.randn(examples, 4)
        program = store.program(batch)
        assert program.batch_size == -examples
        expected = step(model, partial(loss, model, batch))
        torch.testing.assert_close(step(model, partial(program, batch)), expected)
    assert seen == [8, 3]
    model.eval()
    assert store.program(torch.randn(3, 4)).batch_size == -3
    assert seen == [8, 3, 3]


def test_numbers_that_differ_in_every_batch_are_declined_in_the_end() -> None:
    store = ProgramStore(nn.Linear(2, 2), lambda model, batch: loss(model, batch["x"]) * batch["scale"])
    for number in range(64):
        store.program({"x": torch.ones(1, 2), "scale": number})
    with pytest.raises(ProgramError, match="64 kinds of batches so far, 1 of them by their shapes") as raised:
        store.program({"x": torch.ones(1, 2), "scale": 64})
    assert "scale" in raised.value.cause


def test_parameters_that_are_split_already_are_captured_whole() -> None:
    model = nn.Linear(4, 4)

    def split(program: Program) -> Program:
        model.weight.data = model.weight.data[:2]
        return program

    store = ProgramStore(model, loss, transformation=split)
    store.program(torch.randn(8, 4))
    shapes = [list(node.meta["val"].shape) for node in store.program(torch.randn(3, 4)).nodes if node.op == "get_attr"]
    assert shapes == [[4, 4], [4]]
    assert model.weight.shape == (2, 4)
