"""A worker's part of a tensor, and the whole from all parts."""

from torch import Tensor

from meshwright.parallel.tensor._layout import Split


def part_of(whole: Tensor, split: Split, *, coordinate: int, degree: int) -> Tensor:
    """One worker's part: from every group its range. A view where there is one group.

    Args:
        whole: the full tensor.
        split: how it is split.
        coordinate: whose part.
        degree: workers.
    """
    length = whole.shape[split.dim] // (split.groups * degree)
    if split.groups == 1:
        return whole.narrow(split.dim, coordinate * length, length)
    grouped = whole.unflatten(split.dim, (split.groups, degree, length))
    return grouped.select(split.dim + 1, coordinate).flatten(split.dim, split.dim + 1)


def whole_of(parts: Tensor, split: Split) -> Tensor:
    """The full tensor from the parts of all workers, stacked in a first dim.

    Args:
        parts: shape `workers …`.
        split: how it is split.
    """
    dim = split.dim + 1
    grouped = parts.unflatten(dim, (split.groups, parts.shape[dim] // split.groups))
    return grouped.movedim(0, split.dim + 1).flatten(split.dim, split.dim + 2)


def stacked_parts(whole: Tensor, split: Split, degree: int) -> Tensor:
    """The parts of all workers, stacked in a first dim, contiguous."""
    length = whole.shape[split.dim] // (split.groups * degree)
    grouped = whole.unflatten(split.dim, (split.groups, degree, length))
    return grouped.movedim(split.dim + 1, 0).flatten(split.dim + 1, split.dim + 2).contiguous()


def placed(part: Tensor, split: Split, *, coordinate: int, degree: int) -> Tensor:
    """A tensor of the full shape with one worker's part in its place, and zeros elsewhere."""
    shape = list(part.shape)
    shape[split.dim] *= degree
    whole = part.new_zeros(shape)
    length = part.shape[split.dim] // split.groups
    grouped = whole.unflatten(split.dim, (split.groups, degree, length)).select(split.dim + 1, coordinate)
    grouped.copy_(part.unflatten(split.dim, (split.groups, length)))
    return whole
