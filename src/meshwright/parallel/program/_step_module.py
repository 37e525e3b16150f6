"""The training step as one module whose arguments are the batch's tensors: what is exported."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from meshwright.errors import LossError
from meshwright.graph.capture_batch import mapped
from meshwright.parallel.program._forward import Forward

MODEL = "model"
_REGISTRIES = ("_parameters", "_buffers", "_modules")
# The backward that torch.library makes for a registered operation, which stays one operation in the graph.
_OPERATION = "GeneratedBackwardFor_"


class StepModule(nn.Module):
    """Calls `loss(model, batch)` on a batch put together again from its tensors.

    Args:
        model: the user's.
        loss: the user's.
        batch: whose structure and constants are kept.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Any], batch: Any) -> None:
        super().__init__()
        self.model = model
        self._loss = (loss,)
        self._batch = (batch,)
        self.custom_functions: set[str] = set()
        self.training = model.training

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The loss function's output as a tuple."""
        remaining = iter(tensors)
        batch = mapped(self._batch[0], lambda leaf: next(remaining) if isinstance(leaf, Tensor) else leaf)
        before = [(module, dict(module._buffers)) for module in self.model.modules()]
        loss = self._loss[0]
        if isinstance(loss, Forward):
            outputs = loss.outputs(self.model, batch)
            _write_buffers(before)
            self.custom_functions |= {name for output in outputs for name in _custom_functions(output)}
            return outputs
        output = loss(self.model, batch)
        _write_buffers(before)
        pair = output if isinstance(output, tuple) else (output,)
        if len(pair) > 2 or not isinstance(pair[0], Tensor) or pair[0].numel() != 1:
            raise LossError(
                f"the loss function returned {_described(pair)}",
                cause="it has to return a scalar mean, or (total, weight)",
                alternatives=["return loss", "return (total, weight)"],
            )
        self.custom_functions |= set(_custom_functions(pair[0]))
        return pair


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Puts back every attribute of every module: a traced forward may leave fake tensors in caches and lists.

    Gives a function that says whether any has changed meanwhile.
    """
    kept = [(module, _copied(vars(module))) for module in model.modules()]
    try:
        yield lambda: any(_changed(vars(module), attributes) for module, attributes in kept)
    finally:
        for module, attributes in kept:
            for name, value in attributes.items():
                _put_back(module, name, value)
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]


@contextmanager
def checkpoints_inlined() -> Iterator[None]:
    """While `torch.utils.checkpoint` calls its function and nothing else: what is computed again is for a plan to say.

    The reentrant form runs its function without gradients, which a trace would take at its word.
    """
    with patch("torch.utils.checkpoint.CheckpointFunction", _Inlined):
        yield


@contextmanager
def python_numbers_kept() -> Iterator[list[str]]:
    """Puts Python's and NumPy's random states back; the list says which of the two were drawn from."""
    drawn: list[str] = []
    before, numpy_before = random.getstate(), np.random.get_state()
    try:
        yield drawn
    finally:
        if random.getstate() != before:
            drawn.append("Python's random")
        if str(np.random.get_state()) != str(numpy_before):
            drawn.append("numpy.random")
        random.setstate(before)
        np.random.set_state(numpy_before)


class _Inlined:
    """Stands for the checkpoint of the reentrant form."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Calls the function."""
        del preserve
        return function(*args)


def _copied(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every attribute with a shallow copy of its contents where it is a list, set or dict."""
    return {
        name: (value, copy.copy(value) if isinstance(value, list | dict | set) else None)
        for name, value in attributes.items()
    }


def _changed(attributes: dict[str, Any], kept: dict[str, tuple[Any, Any]]) -> bool:
    """Whether attributes are other objects than before; parameters, buffers and modules are none."""
    if attributes.keys() != kept.keys():
        return True
    return any(
        value is not kept[name][0] or (isinstance(value, list | dict | set) and len(value) != len(kept[name][1]))
        for name, value in attributes.items()
        if name not in _REGISTRIES
    )


def _put_back(module: nn.Module, name: str, kept: tuple[Any, Any]) -> None:
    value, contents = kept
    vars(module)[name] = value
    if isinstance(value, list):
        value[:] = contents
    elif isinstance(value, dict | set):
        value.clear()
        value.update(contents)


def _write_buffers(before: list[tuple[nn.Module, dict[str, Tensor | None]]]) -> None:
    """A buffer that the forward replaced by another tensor is written to instead, so that the write is traced."""
    for module, buffers in before:
        for name, buffer in buffers.items():
            now = module._buffers.get(name)
            if now is buffer or now is None or buffer is None:
                continue
            with torch.no_grad():
                buffer.copy_(now)
            module._buffers[name] = buffer


def _custom_functions(output: Tensor) -> Iterator[str]:
    """Names of the user's autograd functions in the loss's history."""
    pending, seen = [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__
        if isinstance(node, BackwardCFunction) and not name.startswith(_OPERATION):
            yield name.removesuffix("Backward")
        pending.extend(following for following, _ in node.next_functions)


def _described(pair: tuple[Any, ...]) -> str:
    first = pair[0]
    kind = f"a tensor of shape {list(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
    return f"{len(pair)} values" if len(pair) > 2 else kind
