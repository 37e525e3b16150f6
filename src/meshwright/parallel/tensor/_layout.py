"""How a tensor lies on the workers of an axis, in the forward and in the backward."""

from dataclasses import dataclass
from enum import Enum


class Whole(Enum):
    """A tensor of which every worker has one of the full shape.

    REPLICATED: all have the same value; the gradient that comes back is the whole one, the same on all.
    COPIED: all have the same value; each worker's gradient is a part of a sum.
    PARTIAL: the value is the sum of the workers' tensors; the gradient that comes back is the whole one.
    """

    REPLICATED = "replicated"
    COPIED = "copied"
    PARTIAL = "partial"


REPLICATED, COPIED, PARTIAL = Whole.REPLICATED, Whole.COPIED, Whole.PARTIAL


@dataclass(frozen=True, slots=True)
class Split:
    """A tensor of which every worker has a part, and gets the gradient of that part.

    Args:
        dim: which dim is split.
        groups: equally long ranges of the dim that are split one by one: index = (group, worker, rest).
    """

    dim: int
    groups: int = 1

    def fits(self, shape: tuple[int, ...], degree: int) -> bool:
        """Whether the parts of a shape are equally long."""
        return self.dim < len(shape) and shape[self.dim] > 0 and shape[self.dim] % (self.groups * degree) == 0


Layout = Whole | Split


def local_shape(shape: tuple[int, ...], layout: Layout, degree: int) -> tuple[int, ...]:
    """What one worker holds of a shape."""
    if not isinstance(layout, Split):
        return shape
    return tuple(size // degree if dim == layout.dim else size for dim, size in enumerate(shape))


def without_gradient(layout: Layout) -> Layout:
    """The layout of a tensor that no gradient comes back to: copied and replicated are the same."""
    return REPLICATED if layout is COPIED else layout


def order(layout: Layout) -> tuple[int, int, int]:
    """A key that puts layouts in a fixed order."""
    if isinstance(layout, Split):
        return (3, layout.dim, layout.groups)
    return ((REPLICATED, COPIED, PARTIAL).index(layout), 0, 0)
