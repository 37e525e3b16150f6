"""What communication and computing cost, as plain rates, and what a layout costs by them."""

from dataclasses import dataclass
from math import isqrt, prod

from meshwright.parallel.tensor._layout import COPIED, PARTIAL, REPLICATED, Layout, Split
from meshwright.parallel.tensor._operation import Operation
from meshwright.units import Seconds

# A training step reads and computes about three times what the forward does: activations' and weights' gradients.
_STEP = 3
_PRODUCTS = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "_grouped_mm"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What the workers of an axis can do.

    The defaults are those of processes on one host that exchange through its memory.

    Args:
        bandwidth: between workers (B/s).
        latency: of one collective (s).
        compute: of one worker (FLOP/s).
        memory: of one worker's memory (B/s).
        keeping: what a byte of a result costs that a worker keeps for its backward (s/B).
        holding: what a byte of a parameter costs that a worker holds: passes over it by gradients and optimizer (s/B).
    """

    bandwidth: float = 5e9
    latency: Seconds = 2e-5
    compute: float = 1e11
    memory: float = 2e10
    keeping: float = 0.0
    holding: float = 6e-10


@dataclass(frozen=True, slots=True)
class Collective:
    """One exchange that changing a layout takes.

    Args:
        name: as the communicator calls it.
        phase: forward or backward.
    """

    name: str
    phase: str


_FORWARD, _BACKWARD = "forward", "backward"


def collectives_between(before: Layout, after: Layout, *, with_gradient: bool) -> tuple[Collective, ...]:
    """The exchanges of changing one layout into another, forward and backward."""
    names = _exchanges(before, after)
    return tuple(Collective(name, phase) for name, phase in names if phase == _FORWARD or with_gradient)


def _exchanges(before: Layout, after: Layout) -> list[tuple[str, str]]:
    if before == after:
        return []
    if isinstance(before, Split):
        if isinstance(after, Split):
            return [("all_to_all", _FORWARD), ("all_to_all", _BACKWARD)]
        if after is PARTIAL:
            return []
        back = [("reduce_scatter", _BACKWARD)] if after is COPIED else []
        return [("all_gather", _FORWARD), *back]
    if isinstance(after, Split):
        forward = [("reduce_scatter", _FORWARD)] if before is PARTIAL else []
        back = [] if before is COPIED else [("all_gather", _BACKWARD)]
        return [*forward, *back]
    forward = [("all_reduce", _FORWARD)] if before is PARTIAL else []
    back = [("all_reduce", _BACKWARD)] if after is COPIED and before in (REPLICATED, PARTIAL) else []
    return [*forward, *back]


def collective_time(name: str, size: int, degree: int, rates: Rates) -> Seconds:
    """Time of one collective.

    Args:
        name: which.
        size: of the whole tensor (B).
        degree: workers.
        rates: of the axis.
    """
    share = (degree - 1) / degree
    volume = {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share, "all_to_all": share / degree}
    return rates.latency + volume[name] * size / rates.bandwidth


def conversion_time(
    before: Layout, after: Layout, size: int, degree: int, rates: Rates, *, with_gradient: bool
) -> Seconds:
    """Time of changing a layout, forward and backward.

    Filling up with zeros is a pass over the tensor; so is putting parts of any dim but the first in order.

    Args:
        before: layout there is.
        after: layout that is wanted.
        size: of the whole tensor (B).
        degree: workers.
        rates: of the axis.
        with_gradient: whether a gradient comes back.
    """
    if before == after:
        return 0.0
    exchanges = collectives_between(before, after, with_gradient=with_gradient)
    inner = any(isinstance(layout, Split) and (layout.dim, layout.groups) != (0, 1) for layout in (before, after))
    passes = 1.0 if after is PARTIAL else len(exchanges) if inner else 0.1
    return passes * size / rates.memory + sum(collective_time(one.name, size, degree, rates) for one in exchanges)


def work_time(operation: Operation, rates: Rates) -> Seconds:
    """Time of an operation's forward and backward on one worker that does all of it."""
    if operation.node.op != "call_function" or not operation.results:
        return 0.0
    moved = operation.result_bytes + sum(prod(shape) for shape in operation.shapes) * 4
    work = _STEP * (flop_of(operation) / rates.compute + moved / rates.memory)
    return work + operation.result_bytes * rates.keeping


def flop_of(operation: Operation) -> float:
    """Multiplications and additions of the forward (FLOP)."""
    name = operation.name.removeprefix("aten.")
    result = prod(operation.results[0]) if operation.results else 0
    if name in _PRODUCTS:
        return 2.0 * result * _inner(name, operation)
    if name.startswith("conv") and operation.shapes:
        return 2.0 * result * prod(operation.shapes[1][1:])
    if name == "scaled_dot_product_attention":
        query, key = operation.shapes[:2]
        return 4.0 * prod(query) * key[-2]
    return float(result)


def _inner(name: str, operation: Operation) -> int:
    """Length of the dim that a product sums over."""
    if name == "einsum":
        return isqrt(prod(operation.shapes[0]) * prod(operation.shapes[-1]) // max(1, prod(operation.results[0])))
    first = operation.shapes[1] if name in ("addmm", "baddbmm") else operation.shapes[0]
    return first[-1]
