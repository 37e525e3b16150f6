"""Repeated blocks captured once: the first instance operation by operation, the others replayed.

A later instance that is given inputs of the same shapes becomes one autograd node, which allocates the same outputs
and gradients, and one lump of the size of what the first instance saves for its backward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meshwright.graph.capture_lifetimes import Allocation, BlockRecord, storage_key
from meshwright.graph.capture_recorder import Recorder
from meshwright.graph.capture_signature import InputAgain, Inputs, TensorSpec, output_specs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FirstInstance:
    """What is known of a block after its first instance ran.

    Args:
        record: its lifetimes.
        kind: class name.
        outputs: a `TensorSpec`, an `InputAgain` or a plain value each.
        output_structure: of the outputs.
        origins: the storage of each input leaf that has a gradient.
        saved_inputs: numbers of the input leaves that it saves for its backward.
        saved_outputs: of the output tensors, those that it saves for its backward.
        used: for each parameter, whether it takes part.
        input_size: B.
    """

    record: BlockRecord
    kind: str
    outputs: tuple[Any, ...]
    output_structure: Any
    origins: tuple[Allocation | None, ...]
    saved_inputs: frozenset[int]
    saved_outputs: tuple[bool, ...]
    used: tuple[bool, ...]
    input_size: int


class BlockRunner:
    """Runs the modules of one copy of a model; blocks whose like ran before are replayed."""

    def __init__(self, model: nn.Module, groups: Sequence[Sequence[str]], recorder: Recorder) -> None:
        self._recorder = recorder
        self._groups: dict[int, tuple[int, str]] = {
            id(model.get_submodule(path)): (number, path) for number, paths in enumerate(groups) for path in paths
        }
        self._parameters = {storage_key(parameter) for parameter in model.parameters()}
        self._known: list[tuple[Inputs, FirstInstance]] = []
        self.first_instances: list[FirstInstance] = []

    def __call__(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a module's forward, or replays it."""
        recorder = self._recorder
        group, path = self._groups.get(id(module), (-1, ""))
        if group < 0 or recorder.record is not None:
            return forward(*args, **kwargs)
        if recorder.ledger.phase == "backward":
            return self._recomputed(path, lambda: forward(*args, **kwargs))
        inputs = Inputs.of(group, args, kwargs)
        for known, first in self._known:
            if known.allow(inputs):
                return self._replay(first, module, path, inputs.leaves)
        return self._capture(module, lambda: forward(*args, **kwargs), path, inputs)

    def forget_inputs(self) -> None:
        """Lets go of what the blocks were given, so that it ends where it would without the capture."""
        self._known.clear()

    def _capture(self, module: nn.Module, forward: Callable[[], Any], path: str, inputs: Inputs) -> Any:
        before, record = (
            _attributes(module),
            BlockRecord(path=path, paths=[path], with_gradients=torch.is_grad_enabled()),
        )
        result = self._recorded(record, forward)
        touched = self._recorder.touched
        outputs, output_structure = pytree.tree_flatten(result)
        specs = output_specs(outputs, inputs.leaves)
        own = {storage_key(parameter) for parameter in module.parameters()}
        if specs is None or touched & (self._parameters - own) or _attributes(module) != before:
            return result
        self._mark_outputs(outputs, record)
        record.left = self._recorder.ledger.left_by(record)
        made = [leaf for leaf, spec in zip(outputs, specs, strict=True) if isinstance(spec, TensorSpec)]
        first = FirstInstance(
            record=record,
            kind=type(module).__name__,
            outputs=specs,
            output_structure=output_structure,
            origins=self._origins(inputs.leaves),
            saved_inputs=frozenset(n for n, leaf in enumerate(inputs.leaves) if self._saves(record, leaf)),
            saved_outputs=tuple(self._saves(record, leaf) for leaf in made),
            used=tuple(storage_key(parameter) in touched for parameter in module.parameters()),
            input_size=sum(leaf.nbytes for leaf in inputs.leaves if isinstance(leaf, Tensor)),
        )
        self.first_instances.append(first)
        self._known.append((inputs.without_tensors(), first))
        return result

    def _recomputed(self, path: str, forward: Callable[[], Any]) -> Any:
        """A forward that the user's own checkpointing runs again.

        That of a first instance counts for all of them: nobody asks a replayed one for what it saved. Reentrant
        checkpointing runs a forward without gradients, and then each instance again by itself.
        """
        captured = (first.record for first in self.first_instances if first.record.with_gradients)
        self._recorder.record = next((record for record in captured if record.path == path), None)
        self._recorder.note_owner()
        try:
            return forward()
        finally:
            self._recorder.record = None
            self._recorder.note_owner()

    def _origins(self, leaves: Sequence[Any]) -> tuple[Allocation | None, ...]:
        ledger = self._recorder.ledger
        return tuple(ledger.of(leaf) if isinstance(leaf, Tensor) and leaf.requires_grad else None for leaf in leaves)

    def _recorded(self, record: BlockRecord, forward: Callable[[], Any]) -> Any:
        recorder = self._recorder
        recorder.record, recorder.touched = record, set()
        recorder.note_owner()
        recorder.ledger.mark("begin", record)
        try:
            return forward()
        finally:
            recorder.record = None
            recorder.note_owner()

    def _mark_outputs(self, outputs: list[Any], record: BlockRecord) -> None:
        for index, leaf in enumerate(outputs):
            entry = self._recorder.ledger.of(leaf) if isinstance(leaf, Tensor) else None
            if entry is not None and entry.record is record:
                entry.output = (record, index)

    def _saves(self, record: BlockRecord, leaf: Any) -> bool:
        entry = self._recorder.ledger.of(leaf) if isinstance(leaf, Tensor) else None
        if entry is None or entry.saved_by is None:
            return False
        return f"{entry.saved_by}.".startswith(f"{record.path}.")

    def _replay(self, first: FirstInstance, module: nn.Module, path: str, leaves: Sequence[Any]) -> Any:
        first.record.calls += 1
        if path not in first.record.paths:
            first.record.paths.append(path)
        self._recorder.ledger.mark("replay", first.record)
        for mine, theirs in zip(first.origins, self._origins(leaves), strict=True):
            if mine is not None and mine is theirs:
                first.record.shared.add(mine.size)
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        saved = [leaf for index, leaf in enumerate(leaves) if index in first.saved_inputs]
        used = [parameter for parameter, use in zip(module.parameters(), first.used, strict=True) if use]
        made = iter(_Replay.apply(self._recorder, first, len(saved), *saved, *inputs, *used))
        outputs = [_output(spec, made, leaves) for spec in first.outputs]
        return pytree.tree_unflatten(outputs, first.output_structure)


class _Replay(torch.autograd.Function):
    """A block as one node: allocates what the block would, and keeps what it would keep."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, first: FirstInstance, num_saved: int, *tensors: Tensor) -> Any:
        ctx.recorder, ctx.record, ctx.num_saved = recorder, first.record, num_saved
        ctx.set_materialize_grads(False)
        ledger, module, record = recorder.ledger, recorder.module, first.record
        with recorder.paused():
            outputs = [spec.empty() for spec in first.outputs if isinstance(spec, TensorSpec)]
            ctx.lump = torch.empty(1, dtype=torch.uint8)
            mark = torch.empty(0)  # what the user's checkpointing keeps its inputs by
        specs = [spec for spec in first.outputs if isinstance(spec, TensorSpec)]
        positions = [index for index, spec in enumerate(first.outputs) if isinstance(spec, TensorSpec)]
        for index, output in zip(positions, outputs, strict=True):
            ledger.allocate(output, module, None).output = (record, index)
        ledger.allocate(ctx.lump, module, None).lump = record
        ledger.hold(record, module)
        ctx.mark_non_differentiable(
            *(output for output, spec in zip(outputs, specs, strict=True) if not spec.requires_grad)
        )
        kept = [output for output, saved in zip(outputs, first.saved_outputs, strict=True) if saved]
        ctx.save_for_backward(*tensors[:num_saved], *kept, mark)
        ctx.wanted = [
            TensorSpec.of(tensor) if index >= num_saved and tensor.requires_grad else None
            for index, tensor in enumerate(tensors)
        ]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor | None) -> Any:
        recorder: Recorder = ctx.recorder
        ledger = recorder.ledger
        ledger.mark("replay", ctx.record)
        ledger.replaying = ctx.record
        ctx.lump = None
        with recorder.paused():
            made = [None if spec is None else spec.empty() for spec in ctx.wanted]
        for gradient in made:
            if gradient is not None:
                ledger.allocate(gradient, recorder.module, None)
        return (None, None, None, *made)


def _output(spec: Any, made: Iterator[Tensor], leaves: Sequence[Any]) -> Any:
    if isinstance(spec, TensorSpec):
        return next(made)
    return leaves[spec.number] if isinstance(spec, InputAgain) else spec


def _attributes(module: nn.Module) -> list[tuple[str, int]]:
    """Which objects hang on a module and those inside of it; a forward that changes them cannot be replayed."""
    return [(name, id(value)) for part in module.modules() for name, value in vars(part).items()]
