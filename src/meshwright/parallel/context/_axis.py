"""The context axis of a worker: programs on its part of every sequence."""

from typing import Literal

import torch.distributed as dist

from meshwright.cost import Strategy
from meshwright.errors import PlanError
from meshwright.parallel.context._ring import RingAttention
from meshwright.parallel.expert import folded, unfolded
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import Rates, Scheme, Split, choose_placements, localize, make_communicator
from meshwright.parallel.tensor.rules import RING

Attention = Literal["ring", "all_to_all"]
# A sequence so short that exchanges cost more than they save is split nevertheless, if it is asked for.
_WANTED = Rates(latency=0.0, bandwidth=1e14)


class ContextAxis:
    """Splits programs over `cp`, all alike.

    Args:
        strategy: degree and form of attention.
        group: this worker and those that have the other parts of its sequences; None for one.
    """

    def __init__(self, strategy: Strategy, *, group: dist.ProcessGroup | None) -> None:
        self._degree = strategy.mesh.cp
        self._attention = strategy.attention
        self._communicator = None if group is None else make_communicator(group, strategy)

    def localized(self, program: Program) -> Program:
        """The program on this worker's positions; its parameters' gradients are parts of a sum over the axis.

        Raises:
            PlanError: nothing in the program lies along a sequence that the degree divides.
        """
        if self._communicator is None:
            return program
        program = folded(program)
        scheme = along_sequence(program, degree=self._degree, attention=self._attention)
        return unfolded(localize(program, scheme, communicator=self._communicator))

    def close(self) -> None:
        """Gives back what carries tensors."""
        if self._communicator is not None:
            self._communicator.close()


def along_sequence(program: Program, *, degree: int, attention: Attention) -> Scheme:
    """How a program's activations are split along their sequences, with all parameters whole.

    Args:
        program: on whole sequences.
        degree: workers of the axis.
        attention: how queries meet the keys of other positions: `ring` hands keys and values round; `all_to_all` takes
            the cheaper of splitting by heads meanwhile and gathering.

    Raises:
        PlanError: nothing is split so.
    """
    for node in program.graph_module.graph.nodes:
        node.meta[RING] = RingAttention if attention == "ring" else None
    scheme = choose_placements(
        program, degree=degree, sequence="split", placements=(), gradients="partial", rates=_WANTED
    )
    divided = sum(
        any(isinstance(layout, Split) for layout in choice.results) and choice.divided
        for choice in scheme.choices.values()
    )
    if not divided:
        lengths = sorted({int(node.meta["val"].shape[1]) for node in _sequences(program)})
        raise PlanError(
            f"context = {degree}: no activation can be split along a sequence",
            cause=f"their second dim has length {', '.join(map(str, lengths))}"
            if lengths
            else "no activation has examples, positions and features",
            alternatives=["another degree", "--set data=2", "--set pipeline=2"],
            command="meshwright plan SCRIPT, without context",
        )
    return scheme


def _sequences(program: Program) -> list:
    return [
        node
        for node in program.graph_module.graph.nodes
        if node.op == "call_function" and getattr(node.meta.get("val"), "ndim", 0) == 3
    ]
