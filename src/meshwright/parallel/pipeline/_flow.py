"""What a program's operations make, read and change: the facts that decide where it may be cut.

Operations that need no parameter and little time (masks, positions, targets shifted by one) belong to no stage: every
stage that reads one computes it from the batch again, which is faster than a message.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from meshwright.parallel.program import Program

# Elementary operations that a worker does in the time that a link carries one byte: a core's 64 GFLOP/s beside 1 GB/s;
# between accelerators it is ten times more. A message costs as much as a million operations before its first byte.
_WORK_PER_BYTE, _WORK_PER_MESSAGE = 64, 2**20
_PRODUCTS = (
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "matmul",
    "linear",
    "einsum",
    "conv",
    "attention",
    "bilinear",
    "lstm",
    "gru",
)
_STATISTICS = ("batch_norm", "instance_norm")


@dataclass(frozen=True, eq=False)
class Flow:
    """The operations of a program in order, those apart that every stage computes for itself.

    Args:
        program: whole.
    """

    program: Program

    @cached_property
    def operations(self) -> tuple[Node, ...]:
        """Operations that belong to one stage, in the order of execution."""
        return tuple(node for node in self._computed if node not in self.shared and node.target is not operator.getitem)

    @cached_property
    def position(self) -> dict[Node, int]:
        """Place in `operations` of everything that belongs to a stage; an item of a tuple is where the tuple is."""
        found = {node: number for number, node in enumerate(self.operations)}
        for node in self._computed:
            if node not in self.shared and node.target is operator.getitem:
                found[node] = found[node.args[0]]  # pyrefly: ignore[bad-index]
        return found

    @cached_property
    def shared(self) -> frozenset[Node]:
        """Operations that every stage which needs them computes for itself."""
        found: set[Node] = set()
        cones: dict[Node, frozenset[Node]] = {}
        work: dict[Node, float] = {}
        for node in self._computed:
            sources = [source for source in node.all_input_nodes if source.op not in ("placeholder", "get_attr")]
            if not self._repeatable(node) or any(source not in found for source in sources):
                continue
            cones[node] = frozenset({node}).union(*(cones[source] for source in sources))
            work[node] = _work(node)
            if sum(work[other] for other in cones[node]) <= _WORK_PER_BYTE * num_bytes(node) + _WORK_PER_MESSAGE:
                found.add(node)
        return frozenset(found)

    @cached_property
    def differentiable(self) -> frozenset[Node]:
        """Values through which a gradient may flow; at least those through which one does."""
        found: set[Node] = set()
        for node in self.program.nodes:
            if node.op == "get_attr":
                parameter = self.program.parameters.get(str(node.target))
                if parameter is not None and parameter.requires_grad:
                    found.add(node)
            elif _is_computed(node) and node.target is not torch.ops.aten.detach.default and _is_continuous(node):
                found.update({node} if found.intersection(node.all_input_nodes) else ())
        return frozenset(found)

    @cached_property
    def last_use(self) -> dict[Node, int]:
        """Where each value that belongs to a stage is read for the last time; the output reads at the end."""
        found: dict[Node, int] = {}
        for node in self.position:
            for user in node.users:
                where = len(self.operations) if user.op == "output" else self.position[user]
                found[node] = max(where, found.get(node, 0))
        return found

    @cached_property
    def joined(self) -> tuple[tuple[int, int], ...]:
        """First and last place of operations that must be on one stage, for what they change in place.

        An intermediate value may cross once the last change is done; a buffer, and a tensor of the batch, never.
        """
        spans = []
        for root, changes in self._changes.items():
            members = self._storages[root]
            involved = [*members, *changes]
            if root.op in ("get_attr", "placeholder"):
                involved += [user for node in members for user in node.users]
            places = [self.position[node] for node in involved if node in self.position]
            spans.append((min(places), max(places)))
        return tuple(spans)

    @cached_property
    def _computed(self) -> tuple[Node, ...]:
        return tuple(node for node in self.program.nodes if _is_computed(node))

    @cached_property
    def _first_views(self) -> dict[Node, Node]:
        """For every value the one whose memory it may share, the earliest there is."""
        first: dict[Node, Node] = {}
        for node in self.program.nodes:
            first[node] = next((first[source] for source in _viewed(node)), node)
        return first

    @cached_property
    def _storages(self) -> dict[Node, list[Node]]:
        """All values in the same memory, by the earliest of them."""
        members: dict[Node, list[Node]] = {}
        for node, root in self._first_views.items():
            members.setdefault(root, []).append(node)
        return members

    @cached_property
    def _changes(self) -> dict[Node, list[Node]]:
        """Operations that write to memory, by the earliest value in it."""
        found: dict[Node, list[Node]] = {}
        for node in self._computed:
            for value in _changed(node):
                found.setdefault(self._first_views[value], []).append(node)
        return found

    def _is_changing(self, node: Node) -> bool:
        return self._first_views[node] in self._changes

    def _repeatable(self, node: Node) -> bool:
        if self._is_changing(node) or _changed(node) or _is_random(node):
            return False
        if not isinstance(node.target, torch._ops.OpOverload) and getattr(node.target, "__module__", "") != "_operator":
            return False
        sources = [source for source in node.all_input_nodes if source.op == "get_attr"]
        return not any(str(source.target) in self.program.parameters or self._is_changing(source) for source in sources)


def num_bytes(node: Node) -> int:
    """Size of what an operation makes (B)."""
    return sum(value.numel() * value.element_size() for value in tensors_in(node.meta.get("val")))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of what an operation makes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _work(node: Node) -> float:
    """Elementary operations: one per element made or read, for a product of matrices as many as it multiplies."""
    made = sum(value.numel() for value in tensors_in(node.meta.get("val")))
    read = [tuple(value.shape) for source in node.all_input_nodes for value in tensors_in(source.meta.get("val"))]
    name = str(node.target)
    if any(product in name for product in _PRODUCTS):
        return 2.0 * made * max((shape[-1] for shape in read if shape), default=1)
    return float(max([made, *(torch.Size(shape).numel() for shape in read)]))


def _is_computed(node: Node) -> bool:
    return node.op in ("call_function", "call_method", "call_module")


def _is_random(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return bool(node.meta.get("random")) or torch.Tag.nondeterministic_seeded in tags


def _is_continuous(node: Node) -> bool:
    values = list(tensors_in(node.meta.get("val")))
    return not values or any(value.is_floating_point() or value.is_complex() for value in values)


def _arguments(node: Node) -> Iterator[tuple[Any, Any]]:
    """The schema's arguments and what they are given."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for place, argument in enumerate(node.target._schema.arguments):
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Node):
                yield argument, item


def _changed(node: Node) -> set[Node]:
    """Values that an operation writes to."""
    found = {value for argument, value in _arguments(node) if argument.alias_info and argument.alias_info.is_write}
    if any(name in str(node.target) for name in _STATISTICS):
        found |= {value for argument, value in _arguments(node) if argument.name.startswith("running_")}
    return found


def _viewed(node: Node) -> list[Node]:
    """Values whose memory an operation's result may share."""
    if node.target is operator.getitem and isinstance(node.args[0], Node):
        return [node.args[0]]
    return [value for argument, value in _arguments(node) if argument.alias_info]
