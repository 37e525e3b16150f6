"""Watches a step operation by operation: which module runs it, in which phase, at what cost, and what it allocates."""

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from meshwright.graph._graph import Phase
from meshwright.graph.capture_kernels import run_kernel
from meshwright.graph.capture_lifetimes import BlockRecord, Ledger, StorageKey, storage_key
from meshwright.graph.capture_operations import (
    OperationClass,
    OperationCost,
    as_called,
    classify,
    cost,
    tensors,
)
from meshwright.graph.capture_traits import operation_traits

ForwardCall = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_UNNUMBERED = 2**64 - 1
_NOT_RUN = ("prim.device", "aten.detach", "prim.layout", "aten.is_pinned")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One operation of the step at one batch size.

    Args:
        record: the repeated block's first instance that it belongs to.
    """

    known: OperationClass
    cost: OperationCost
    phase: Phase
    module: str
    record: BlockRecord | None


class Recorder(TorchDispatchMode):
    """Records every aten operation below autograd.

    An operation of the backward belongs to the module whose forward made its autograd node: nodes are numbered in
    the order in which they are made, and each entry into and exit out of a module notes the number reached.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.calls: list[Call] = []
        self.record: BlockRecord | None = None
        self.touched: set[StorageKey] = set()
        self.traits: set[tuple[str, str]] = set()
        self._known: dict[OpOverload, OperationClass] = {}
        self._modules: list[str] = []
        self._paused = False
        self._numbers: list[int] = [-1]
        self._owners: list[tuple[str, BlockRecord | None]] = [("", None)]
        self._owner: tuple[str, BlockRecord | None] = ("", None)
        self._backward_begun: set[int] = set()

    @property
    def module(self) -> str:
        """Path of the module that runs now; empty outside of the model."""
        return self._modules[-1] if self._modules else ""

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        """While a module's forward runs."""
        self._modules.append(path)
        self.note_owner()
        try:
            yield
        finally:
            self._modules.pop()
            self.note_owner()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While operations run that are no part of the step."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def note_owner(self) -> None:
        """Autograd nodes made from now on belong to the module and the block that run now."""
        self._numbers.append(torch._C._autograd._get_sequence_nr())
        self._owners.append((self.module, self.record))

    def pack(self, tensor: Tensor) -> Tensor:
        """Saved-tensor hook: notes who saves what."""
        self.ledger.save(tensor, self.module)
        return tensor

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = classify(func)
        if self._paused or known.name in _NOT_RUN:
            return func(*args, **kwargs)
        if known.kind == "other" and func._can_decompose():
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = run_kernel(func, args, kwargs)
        module, record = self._attribute()
        if self.record is not None:
            given = tensors((*args, *kwargs.values()))
            self.touched.update(storage_key(tensor) for tensor in given if tensor.layout == torch.strided)
        self._begin_backward_of(record)
        for tensor in tensors((out,)):
            if tensor.layout == torch.strided:
                self.ledger.enter(tensor, module, record)
        if self.ledger.phase == "backward" and _hands_over(known, args):
            return out
        measured = cost(func, known, args, kwargs, out)
        called = as_called(known, kwargs)
        self.calls.append(Call(known=called, cost=measured, phase=self.ledger.phase, module=module, record=record))
        self.traits.update((trait, module) for trait in operation_traits(func, known, args, kwargs))
        self.ledger.index += 1
        return out

    def _attribute(self) -> tuple[str, BlockRecord | None]:
        """Module and block of the operation that runs now; between two nodes, those of the last one."""
        if self.ledger.phase == "forward" or self._modules:
            return self.module, self.record
        node = torch._C._current_autograd_node()
        number = _UNNUMBERED if node is None else node._sequence_nr()
        if number < _UNNUMBERED:
            self._owner = self._owners[bisect_right(self._numbers, number) - 1]
        return self._owner

    def _begin_backward_of(self, record: BlockRecord | None) -> None:
        if record is None or self.ledger.phase == "forward":
            return
        record.last_backward = self.ledger.index
        if id(record) not in self._backward_begun:
            self._backward_begun.add(id(record))
            self.ledger.mark("begin", record)


def sums_once(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls with the sum of an input's gradients over several blocks taken out of the first block.

    Autograd adds up the gradients of a tensor that several blocks are given between the blocks. The replayed ones add
    theirs to the sum for themselves, so the sum that follows the first instance must not be repeated with it.
    """
    left = list(calls)
    done: set[tuple[int, float]] = set()
    for number, call in reversed(list(enumerate(calls))):
        if call.record is None or call.phase == "forward" or call.known.name not in ("aten.add", "aten.add_"):
            continue
        place = (id(call.record), call.cost.bytes_written)
        if call.cost.bytes_written in call.record.shared and place not in done:
            done.add(place)
            left[number] = replace(call, record=None)
    return tuple(left)


def _hands_over(known: OperationClass, args: tuple[Any, ...]) -> bool:
    """Whether an operation copies a gradient into a parameter that a real step hands over as it is.

    Fake kernels return one tensor twice where real ones return two, which makes autograd copy it.
    """
    if known.name not in ("aten.new_empty_strided", "aten.copy_"):
        return False
    node = torch._C._current_autograd_node()
    if node is None or not node.name().endswith("AccumulateGrad"):
        return False
    return args[0].stride() == (args[1].stride() if known.name == "aten.copy_" else tuple(args[2]))


@contextmanager
def watched(model: nn.Module, recorder: Recorder, call: ForwardCall) -> Iterator[None]:
    """While the forward of each module of a copy goes through the recorder, and through `call`.

    Args:
        model: a copy that belongs to the capture.
        call: runs a module's own forward, or does something else in its place.
    """
    changed: list[tuple[nn.Module, Any]] = []
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        before = module.__dict__.get("forward")
        module.__dict__["forward"] = _through(module, path, module.forward, recorder, call)
        changed.append((module, before))
    try:
        yield
    finally:
        for module, before in changed:
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before


def _through(
    module: nn.Module, path: str, forward: Callable[..., Any], recorder: Recorder, call: ForwardCall
) -> Callable[..., Any]:
    @functools.wraps(forward)
    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        with recorder.inside(path):
            return call(module, forward, args, kwargs)

    return watched_forward
