"""Normalisations: what they compute statistics over stays whole."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters


class LastDims(LetterRule):
    """`layer_norm`, `rms_norm`: statistics over the last dims."""

    def letters(self, operation: Operation) -> Letters | None:
        """The leading dims'."""
        shape = operation.shapes[0]
        whole = len(operation.argument("normalized_shape"))
        leading = tuple(f"b{dim}" for dim in range(len(shape) - whole))
        dims = (*leading, *("",) * whole)
        rest = tuple(("",) * len(other) for other in operation.shapes[1:])
        results = tuple(tuple(dims[: len(result)]) for result in operation.results)
        return Letters(operands=(dims, *rest), results=results)


class Channels(LetterRule):
    """`batch_norm`, `instance_norm`: every channel by itself; its parameters and running statistics go with it."""

    def letters(self, operation: Operation) -> Letters | None:
        """The channels'."""
        dims = ("", "c", *("",) * (len(operation.shapes[0]) - 2))
        rest = tuple(("c",) for _ in operation.shapes[1:])
        results = tuple(dims if len(result) > 1 else ("c",) if result else () for result in operation.results)
        return Letters(operands=(dims, *rest), results=results, single=frozenset())


class Groups(LetterRule):
    """`group_norm`: whole groups of channels."""

    def letters(self, operation: Operation) -> Letters | None:
        """The examples' and, where the number of groups can be divided, the channels'."""
        channel = "c" if operation.argument("num_groups") % operation.degree == 0 else ""
        dims = ("n", channel, *("",) * (len(operation.shapes[0]) - 2))
        rest = tuple((channel,) for _ in operation.shapes[1:])
        return Letters(operands=(dims, *rest), results=(dims,), single=frozenset("c"), kinds={"c": "num_groups"})
