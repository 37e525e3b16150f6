"""The order of a mesh's axes on the devices: which neighbours stand next to each other, and which in other hosts.

Ranks count as `Mesh` says, whatever the order; the order says on which device each rank stands. With axes $a_1, …, a_k$
from the farthest to the nearest, neighbours on $a_i$ stand $\\prod_{j>i} |a_j|$ devices apart.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from meshwright.cost._mesh import Axis, Mesh

# The axes from the one whose neighbours stand farthest apart to the one whose neighbours stand nearest.
Order = tuple[Axis, ...]
USUAL_ORDER: Order = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
# No order: every axis as if it lay where that is best for it. For lower bounds on the prices of all orders.
ANY_ORDER: Order = ()
_DATA: Order = ("dp_replicate", "dp_shard")
# Ranks of an expert group are neighbours along these, the first one first.
_EXPERT: Order = ("cp", "dp_shard", "dp_replicate")


@lru_cache(maxsize=2**15)
def strides(mesh: Mesh, order: Order) -> Mapping[Axis, int]:
    """How many devices apart neighbours on each axis stand; on `ep` along the first axis that it lies inside.

    In no order (`ANY_ORDER`) 0: as far as is best.
    """
    if order == ANY_ORDER:
        return dict.fromkeys((*USUAL_ORDER, "ep"), 0)
    found: dict[Axis, int] = {}
    step = 1
    for axis in reversed(order):
        found[axis] = step
        step *= getattr(mesh, axis)
    found["ep"] = found[next((axis for axis in _EXPERT if getattr(mesh, axis) > 1), "cp")]
    return found


@lru_cache(maxsize=2**15)
def mean_stride(*axes: tuple[int, int]) -> int:
    """How many devices apart neighbours in a group over several axes stand in the mean, over all that it spans.

    Where no other axis lies between them, that is how far apart the nearest are.

    Args:
        axes: degree and stride of each.
    """
    several = sorted(((stride, degree) for degree, stride in axes if degree > 1), reverse=True)
    return several[0][0] // prod(degree for _, degree in several[1:]) if several else 1


def live(mesh: Mesh, order: Sequence[Axis]) -> Order:
    """The axes with more than one member, in an order."""
    return tuple(axis for axis in order if getattr(mesh, axis) > 1)


def normal(mesh: Mesh, order: Sequence[Axis]) -> Order:
    """The order of all axes that stands for all that order those with more than one member alike: the usual one first.

    Args:
        order: of those at least.
    """
    several = live(mesh, order)
    if several == live(mesh, USUAL_ORDER):
        return USUAL_ORDER
    found: list[Axis] = []
    for axis in several:
        if axis in _DATA and not set(_DATA) & set(several) - {axis}:
            found += _DATA  # one of them alone stands for both
        else:
            found.append(axis)
    return (*(axis for axis in USUAL_ORDER if axis not in found), *found)


def suits(mesh: Mesh, order: Order) -> bool:
    """Whether members of expert groups stand equally far apart.

    A group is made of neighbouring ranks along `cp`, then `dp_shard`, then `dp_replicate`: as far as it reaches over
    more than one of them, no other axis may lie between, and they must lie inside each other in that sequence.
    """
    if mesh.ep == 1:
        return True
    apart, spanned, reach = strides(mesh, order), 1, 0
    for axis in _EXPERT:
        degree = getattr(mesh, axis)
        if degree == 1:
            continue
        if spanned > 1 and apart[axis] != reach:
            return False
        spanned, reach = spanned * degree, apart[axis] * degree
        if spanned % mesh.ep == 0:
            return True
    return False
