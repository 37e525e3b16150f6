"""Repeated blocks captured once: the first instance operation by operation, the others replayed.

A later instance that is given inputs of the same shapes becomes one autograd node, which allocates the same outputs
and gradients, and one lump of the size of what the first instance saves for its backward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from meshwright.graph.capture_lifetimes import Allocation, BlockRecord, storage_key
from meshwright.graph.capture_recorder import Recorder


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor without its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    @staticmethod
    def of(tensor: Tensor) -> "TensorSpec":
        """The specification of a tensor."""
        return TensorSpec(
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            dtype=tensor.dtype,
            device=tensor.device,
            requires_grad=tensor.requires_grad,
        )

    def empty(self) -> Tensor:
        """A tensor like it."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputAgain:
    """An output that is one of the inputs."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FirstInstance:
    """What is known of a block after its first instance ran.

    Args:
        record: its lifetimes.
        kind: class name.
        given: of each input leaf, what has to be equal for a replay.
        structure: of the inputs.
        outputs: a `TensorSpec`, an `InputAgain` or a plain value each.
        output_structure: of the outputs.
        lump: what it saves for its backward (B).
        saved_inputs: numbers of the input leaves that it saves for its backward.
        saved_outputs: of the output tensors, those that it saves for its backward.
        used: for each parameter, whether it takes part.
        input_size: B.
    """

    record: BlockRecord
    kind: str
    given: tuple[Any, ...]
    structure: Any
    outputs: tuple[Any, ...]
    output_structure: Any
    lump: int
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
        self._first: list[tuple[int, FirstInstance]] = []

    @property
    def first_instances(self) -> list[FirstInstance]:
        """Every block that was captured, in order of execution."""
        return [first for _, first in self._first]

    def __call__(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a module's forward, or replays it."""
        recorder = self._recorder
        group, path = self._groups.get(id(module), (-1, ""))
        if group < 0 or recorder.record is not None or recorder.ledger.phase == "backward":
            return forward(*args, **kwargs)
        leaves, structure = pytree.tree_flatten((args, kwargs), is_leaf=_is_leaf)
        given = tuple(TensorSpec.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        given += (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        for number, first in self._first:
            if number == group and first.structure == structure and _same_leaves(first.given, given):
                return self._replay(first, module, path, leaves)
        record = BlockRecord(path=path, paths=[path])
        return self._capture((group, record), module, lambda: forward(*args, **kwargs), (leaves, given, structure))

    def _capture(
        self,
        key: tuple[int, BlockRecord],
        module: nn.Module,
        forward: Callable[[], Any],
        inputs: tuple[list[Any], tuple[Any, ...], Any],
    ) -> Any:
        group, record = key
        leaves, given, structure = inputs
        before = _attributes(module)
        number = len(self._recorder.ledger.allocations)
        result = self._recorded(record, forward)
        touched = self._recorder.touched
        outputs, output_structure = pytree.tree_flatten(result)
        specs = _output_specs(outputs, leaves)
        own = {storage_key(parameter) for parameter in module.parameters()}
        if specs is None or touched & (self._parameters - own) or _attributes(module) != before:
            return result
        first = FirstInstance(
            record=record,
            kind=type(module).__name__,
            given=given,
            structure=structure,
            outputs=specs,
            output_structure=output_structure,
            lump=self._internal(number, outputs, record),
            saved_inputs=frozenset(index for index, leaf in enumerate(leaves) if self._saved_inside(leaf, record.path)),
            saved_outputs=tuple(
                self._saved_inside(leaf, record.path)
                for leaf, spec in zip(outputs, specs, strict=True)
                if isinstance(spec, TensorSpec)
            ),
            used=tuple(storage_key(parameter) in touched for parameter in module.parameters()),
            input_size=sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)),
        )
        self._first.append((group, first))
        return result

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

    def _internal(self, number: int, outputs: list[Any], record: BlockRecord) -> int:
        """What the block leaves behind besides its outputs (B), which are marked as such."""
        ledger = self._recorder.ledger
        made = [ledger.of(leaf) for leaf in outputs if isinstance(leaf, Tensor)]
        for index, entry in enumerate(made):
            if entry is not None and entry.record is record:
                entry.output = (record, index)
        return sum(entry.size for entry in ledger.alive_since(number) if not any(entry is other for other in made))

    def _saved_inside(self, leaf: Any, path: str) -> bool:
        entry = self._recorder.ledger.of(leaf) if isinstance(leaf, Tensor) else None
        return entry is not None and entry.saved_by is not None and f"{entry.saved_by}.".startswith(f"{path}.")

    def _replay(self, first: FirstInstance, module: nn.Module, path: str, leaves: list[Any]) -> Any:
        first.record.calls += 1
        if path not in first.record.paths:
            first.record.paths.append(path)
        self._recorder.ledger.mark("replay", first.record)
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        saved = [leaf for index, leaf in enumerate(leaves) if index in first.saved_inputs]
        used = [parameter for parameter, use in zip(module.parameters(), first.used, strict=True) if use]
        replayed = _Replay.apply(self._recorder, first, len(saved), *saved, *inputs, *used)
        made = iter(replayed if isinstance(replayed, tuple) else (replayed,))
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
            ctx.lump = torch.empty(first.lump, dtype=torch.uint8)
        for index, output in enumerate(outputs):
            entry = ledger.allocate(output, module, None)
            if entry is not None:
                entry.output = (record, index)
        lump = ledger.allocate(ctx.lump, module, None)
        if lump is not None:
            lump.lump = True
        specs = [spec for spec in first.outputs if isinstance(spec, TensorSpec)]
        ctx.mark_non_differentiable(
            *(output for output, spec in zip(outputs, specs, strict=True) if not spec.requires_grad)
        )
        kept = [output for output, saved in zip(outputs, first.saved_outputs, strict=True) if saved]
        ctx.save_for_backward(*tensors[:num_saved], *kept)
        ctx.wanted = [
            TensorSpec.of(tensor) if index >= num_saved and tensor.requires_grad else None
            for index, tensor in enumerate(tensors)
        ]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
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


def _output(spec: Any, made: Any, leaves: list[Any]) -> Any:
    if isinstance(spec, TensorSpec):
        return next(made)
    return leaves[spec.number] if isinstance(spec, InputAgain) else spec


def _output_specs(outputs: list[Any], leaves: list[Any]) -> tuple[Any, ...] | None:
    """What each output is; None where a replay could not make it (a view of an input, an object of its own)."""
    inputs = [(index, leaf) for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    known = {storage_key(leaf) for _, leaf in inputs}
    specs: list[Any] = []
    for output in outputs:
        again = next((index for index, leaf in enumerate(leaves) if leaf is output), None)
        if again is not None:
            specs.append(InputAgain(number=again))
        elif isinstance(output, Tensor):
            if storage_key(output) in known:
                return None
            known.add(storage_key(output))
            specs.append(TensorSpec.of(output))
        elif output is None or isinstance(output, bool | int | float | str):
            specs.append(output)
        else:
            return None
    return tuple(specs)


def _attributes(module: nn.Module) -> list[tuple[str, int]]:
    """Which objects hang on a module and those inside of it; a forward that changes them cannot be replayed."""
    return [(name, id(value)) for part in module.modules() for name, value in vars(part).items()]


def _is_leaf(value: Any) -> bool:
    return type(value) not in (tuple, list, dict)


def _same_leaves(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether inputs are equal: tensors by shape, plain values by value, all others by identity."""
    plain = (TensorSpec, bool, int, float, str, torch.dtype, torch.device)
    return len(one) == len(other) and all(
        mine is theirs or (type(mine) is type(theirs) and isinstance(mine, plain) and mine == theirs)
        for mine, theirs in zip(one, other, strict=True)
    )
