"""A piece of a program that treats rows one by one, in whatever order: workers with some of the rows do them alone."""

from collections.abc import Callable
from typing import Any

from meshwright.parallel.program import Target


class ByRow(Target):
    """Several operations as one node.

    Args:
        name: a valid identifier.
        rows: for every argument, whether its first dim is that of the rows, or of so many rows each.
        piece: computes the result, a tensor with rows, for any number of them.
    """

    def __init__(self, name: str, *, rows: tuple[bool, ...], piece: Callable[..., Any]) -> None:
        super().__init__(name)
        self.rows = rows
        self.piece = piece

    def __call__(self, *arguments: Any) -> Any:
        """The result."""
        return self.piece(*arguments)
