"""Does a captured program compute what the model computes? One step of each, once.

A capture records operations, not Python: a number that the forward draws from Python, an attribute that it counts up, a
backward that a hook or a custom autograd function rewrites are constants or missing. What can be recognized is declined
at capture; this check is what is left, and always runs where the model fits twice.

Gradients are what it takes memory for. Workers with equal micro-batches share them: each keeps the model's gradients of
its share of the parameters, and lets go of the program's one by one as the backward makes them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.errors import ProgramError
from meshwright.parallel.program._distances import Distances, squared_norm
from meshwright.parallel.program._free_memory import free_memory
from meshwright.parallel.program._peers import ALONE, Peers
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one worker has found.

    Args:
        loss: relative distance of the loss.
        square: squared norm of the gradients of its parameters.
        squares: squared distance of each of them.
    """

    loss: float
    square: float
    squares: dict[str, float]


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


def agrees(
    program: Program, model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any, *, peers: Peers = ALONE
) -> SelfCheck:
    """Computes loss and gradients by the program and by the model with equal random numbers, and compares.

    Where the model's forward has left something in an attribute, the loss of a second call is compared too: a cache
    does not change it, a counter or a state that is carried on does. Model, gradients, buffers and random numbers are
    afterwards as they were.

    Args:
        program: of this model, not yet split.
        model: the user's.
        loss: the user's.
        batch: of the program's signature.
        peers: the workers that compare each its share of the parameters; all of them get the same answer.
    """
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    parameters = {name: trainable[name] for name in peers.share(trainable)}
    with _untouched(model, batch) as changed:
        state = _random_states(model)
        expected, wanted = _step(lambda: loss(model, batch), parameters)
        remembers = changed()
        later = _loss(loss(model, batch)) if remembers else 0.0
    square = sum(squared_norm(gradient) for gradient in wanted.values())
    with _untouched(model, batch), Distances(parameters, wanted) as distances:
        _set_random_states(model, state)
        found, got = _run(program, batch, parameters)
        distances.take_rest(got)
        later -= _loss(program(batch)) if remembers else 0.0
    dtypes = {node.meta["val"].dtype for node in program.nodes if isinstance(node.meta.get("val"), Tensor)}
    tolerance = max(_TOLERANCES.get(dtype, _COARSE) for dtype in dtypes if dtype.is_floating_point)
    off = max(abs(found - expected), abs(later)) / max(1.0, abs(expected))
    parts = peers.all(_Part(loss=off, square=square, squares=distances.squares))
    own = _joined([parts[number] for number in peers.alike], tolerance)
    return max(peers.all(own), key=lambda check: max(check.loss, check.gradient) / check.tolerance)


def _joined(parts: list[_Part], tolerance: float) -> SelfCheck:
    """What workers with equal micro-batches have found together."""
    scale = math.sqrt(sum(part.square for part in parts)) or 1.0
    squares = {name: square for part in parts for name, square in part.squares.items()}
    distances = {name: math.sqrt(square) / scale for name, square in squares.items() if not math.isnan(square)}
    distances |= {name: math.inf for name, square in squares.items() if math.isnan(square)}
    worst = max(distances, key=lambda name: distances[name], default="")
    return SelfCheck(
        loss=max(part.loss for part in parts), gradient=distances.get(worst, 0.0), worst=worst, tolerance=tolerance
    )


def check(
    program: Program, model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any, *, peers: Peers = ALONE
) -> None:
    """Runs `agrees`.

    Raises:
        ProgramError: the program computes something else than the model.
    """
    found = agrees(program, model, loss, batch, peers=peers)
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
    # of more workers than parameters some have none to compare
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True) if parameters else ()
    return _loss((total, weight)), dict(zip(parameters, gradients, strict=True))


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
