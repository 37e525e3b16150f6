"""Does a captured program compute what the model computes? One step of each, once.

A capture records operations, not Python: a number that the forward draws from Python, an attribute that it counts up, a
backward that a hook or a custom autograd function rewrites are constants or missing. What can be recognized is declined
at capture; this check is what is left, and always runs where the model fits twice.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.errors import ProgramError
from meshwright.parallel.program._free_memory import free_memory
from meshwright.parallel.program._program import Program, tensors_of
from meshwright.parallel.program._step_module import attributes_kept
from meshwright.units import format_bytes

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 5e-2
# Those of the model and those of its program.
_GRADIENTS = 2
_SPARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """How far a program's step is from its model's.

    Args:
        loss: relative distance of the loss.
        gradient: largest distance of one parameter's gradient, relative to the norm of all.
        worst: that parameter; empty: none has a gradient.
        tolerance: what rounding explains.
    """

    loss: float
    gradient: float
    worst: str
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether rounding explains the distance."""
        return max(self.loss, self.gradient) <= self.tolerance


def fits_whole(program: Program, model: nn.Module) -> bool:
    """Whether a step of the whole model can be computed here beside its gradients, so that a check is cheap.

    Every value that the program computes counts as kept for the backward: more than is.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.device.type == "meta" for tensor in tensors):
        return False
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    computed = sum(_bytes(node.meta.get("val")) for node in program.nodes if node.op == "call_function")
    needed = _GRADIENTS * sum(tensor.nbytes for tensor in model.parameters()) + computed
    return needed <= _SPARE * free_memory(device)


def _bytes(value: Any) -> int:
    if isinstance(value, tuple | list):
        return sum(_bytes(item) for item in value)
    return value.nbytes if isinstance(value, Tensor) else 0


def agrees(program: Program, model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any) -> SelfCheck:
    """Computes loss and gradients by the program and by the model with equal random numbers, and compares.

    Where the model's forward has left something in an attribute, the loss of a second call is compared too: a cache
    does not change it, a counter or a state that is carried on does. Model, gradients, buffers and random numbers are
    afterwards as they were.

    Args:
        program: of this model, not yet split.
        model: the user's.
        loss: the user's.
        batch: of the program's signature.
    """
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    with _untouched(model, batch) as changed:
        state = _random_states(model)
        expected, wanted = _step(lambda: loss(model, batch), parameters)
        remembers = changed()
        later = _loss(loss(model, batch)) if remembers else 0.0
    with _untouched(model, batch):
        _set_random_states(model, state)
        found, got = _run(program, batch, parameters)
        later -= _loss(program(batch)) if remembers else 0.0
    scale = float(torch.linalg.vector_norm(torch.stack([_norm(gradient) for gradient in wanted.values()])))
    distances = {name: _distance(got[name], wanted[name], scale) for name in parameters}
    worst = max(distances, key=lambda name: distances[name], default="")
    dtypes = {node.meta["val"].dtype for node in program.nodes if isinstance(node.meta.get("val"), Tensor)}
    return SelfCheck(
        loss=max(abs(found - expected), abs(later)) / max(1.0, abs(expected)),
        gradient=distances.get(worst, 0.0),
        worst=worst,
        tolerance=max(_TOLERANCES.get(dtype, _COARSE) for dtype in dtypes if dtype.is_floating_point),
    )


def check(program: Program, model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any) -> None:
    """Runs `agrees`.

    Raises:
        ProgramError: the program computes something else than the model.
    """
    found = agrees(program, model, loss, batch)
    if found.equal:
        return
    custom = f"; custom autograd functions: {', '.join(program.custom_functions)}" if program.custom_functions else ""
    raise ProgramError(
        f"the graph of {type(model).__name__} computes something else than the model: loss off by {found.loss:.1e}, "
        f"gradient by {found.gradient:.1e} (worst: {found.worst}); {found.tolerance:.0e} is rounding",
        cause=f"the forward or the backward does what a graph of its operations does not show{custom}",
        alternatives=[
            "data parallelism and sharded data parallelism run the model as it is",
            "leave tensor hooks, custom backwards and counters in Python out of the forward",
        ],
    )


def unchecked(program: Program, model: nn.Module) -> ProgramError:
    """The error for a program with a backward of its own whose check does not fit."""
    size = format_bytes(sum(tensor.nbytes for tensor in model.parameters()))
    return ProgramError(
        f"{type(model).__name__} uses custom autograd functions: {', '.join(program.custom_functions)}",
        cause="a graph has their forward only, and comparing its gradients with the model's does not fit: "
        f"parameters of {size}",
        alternatives=[
            "write them with torch's own operations",
            "prove the graph on a smaller configuration of the model: meshwright verify",
        ],
    )


def _run(program: Program, batch: Any, parameters: dict[str, nn.Parameter]) -> tuple[float, dict[str, Tensor | None]]:
    try:
        return _step(lambda: program(batch), parameters)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ProgramError(
            f"the graph of the model cannot be run: {type(error).__name__}: {error}",
            cause="the capture has recorded an operation that works in the model's forward only",
            alternatives=["data parallelism and sharded data parallelism run the model as it is"],
        ) from error


def _loss(output: Any) -> float:
    total, weight = output if isinstance(output, tuple) else (output, 1.0)
    return float(total.detach()) / (float(weight) or 1.0)


def _step(call: Callable[[], Any], parameters: dict[str, nn.Parameter]) -> tuple[float, dict[str, Tensor | None]]:
    output = call()
    total, weight = output if isinstance(output, tuple) else (output, 1.0)
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return _loss((total, weight)), dict(zip(parameters, gradients, strict=True))


def _norm(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(())
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    return torch.linalg.vector_norm(dense.double()).cpu().float()


def _distance(found: Tensor | None, expected: Tensor | None, scale: float) -> float:
    """Relative to all gradients; one that is missing counts as zero."""
    if found is None or expected is None:
        return float(_norm(expected if found is None else found)) / (scale or 1.0)
    distance = float(_norm(found.detach().double() - expected.detach().double())) / (scale or 1.0)
    return float("inf") if math.isnan(distance) else distance


@contextmanager
def _untouched(model: nn.Module, batch: Any) -> Iterator[Callable[[], bool]]:
    """Puts back buffers, attributes, what the loss writes into the batch, and random numbers."""
    tensors = [*model.buffers(), *tensors_of(batch)]
    before = [tensor.detach().clone() for tensor in tensors]
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with (
            attributes_kept(model) as changed,
            torch.random.fork_rng(devices, device_type=kind),
            torch.enable_grad(),
        ):
            yield changed
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def _random_states(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    own = torch.get_device_module(device).get_rng_state(device) if device.type != "cpu" else None
    return torch.get_rng_state(), own


def _set_random_states(model: nn.Module, states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        device = next(tensor.device for tensor in model.parameters())
        torch.get_device_module(device).set_rng_state(states[1], device)
