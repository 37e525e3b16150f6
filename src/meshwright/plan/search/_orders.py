r"""Orders of a mesh's axes on the devices, of those with equal prices one: the usual order first.

What a price knows of where an axis lies is how many of its members share a host, and a rack: $\min(d, ⌊B/s⌋)$ of $d$
that stand $s$ devices apart, where $B$ devices are a host or a rack; of a pipeline, which of its cuts leave one:
$s$ itself as far as it is less than $B$, and all of them beyond.
Groups inside the data axes (shards, replicas, experts and those that hold the same ones) are $k s$ apart, and
$⌊B/ks⌋ = ⌊⌊B/s⌋/k⌋$: what is the same for all data ranks is the same for those. Islands are told apart by the devices
themselves, so that for them each order counts.
"""

from functools import lru_cache
from itertools import permutations, product

from meshwright.cost import Axis, Mesh
from meshwright.cost.hybrid import USUAL_ORDER, Order, live, mean_stride, normal, strides, suits
from meshwright.plan._axis_order import agrees

_DATA: Order = ("dp_replicate", "dp_shard")
REPLICAS_OUTSIDE: Order = (*_DATA, "pp", "cp", "tp")
_LUMPS: tuple[Order, ...] = (("pp",), _DATA, ("cp",), ("tp",))

Reaches = tuple[int, ...]  # devices of a host, and of a rack where there are any; empty: every order counts


@lru_cache(maxsize=2**14)
def orders(mesh: Mesh, reaches: Reaches, *, outermost: Axis | None, pinned: str | None) -> tuple[Order, ...]:
    """Orders of a mesh whose data ranks are replicas yet, with different prices.

    Args:
        reaches: devices of each tier.
        outermost: the axis on which no kind of devices is left; None: all devices are of one kind.
        pinned: the order that the user asks for.
    """
    found: dict[tuple, Order] = {}
    several = [lump for lump in _LUMPS if any(getattr(mesh, axis) > 1 for axis in lump)]
    for lumps in permutations(several):
        order = normal(mesh, tuple(axis for lump in lumps for axis in lump))
        if outermost is not None and live(mesh, order)[:1] not in ((), (outermost,)):
            continue
        if suits(mesh, order) and agrees(mesh, order, pinned):
            found.setdefault(_whereabouts(mesh, order, reaches), order)
    return tuple(found.values())


@lru_cache(maxsize=2**14)
def orders_of_shards(
    mesh: Mesh, order: Order, reaches: Reaches, *, mixed: bool, pinned: str | None
) -> tuple[Order, ...]:
    """The same order with replicas outside of shards, and the other way round where that is priced differently.

    Args:
        mesh: its shards and replicas.
        order: with replicas outside.
        mixed: whether ranks of different kinds of devices may follow each other on the data axes.
    """
    found: dict[tuple, Order] = {}
    turned = tuple({"dp_replicate": "dp_shard", "dp_shard": "dp_replicate"}.get(axis, axis) for axis in order)
    for one in (order,) if mixed or mesh.dp_shard == 1 or mesh.dp_replicate == 1 else (order, normal(mesh, turned)):  # type: ignore[arg-type]
        if suits(mesh, one) and agrees(mesh, one, pinned):
            found.setdefault(_whereabouts(mesh, one, reaches), one)
    return tuple(found.values())


def orders_beside(mesh: Mesh, order: Order, reaches: Reaches) -> tuple[Order, ...]:
    """Orders with two neighbouring axes of another one exchanged, as far as prices tell them from it and each other.

    Args:
        mesh: its shards and replicas.
    """
    several = live(mesh, order)
    found = {_whereabouts(mesh, order, reaches): order}
    for place in range(len(several) - 1):
        changed = (*several[:place], several[place + 1], several[place], *several[place + 2 :])
        one = normal(mesh, changed)
        if abs(one.index("dp_shard") - one.index("dp_replicate")) == 1 and suits(mesh, one):
            found.setdefault(_whereabouts(mesh, one, reaches), one)
    return tuple(found.values())[1:]


def _whereabouts(mesh: Mesh, order: Order, reaches: Reaches) -> tuple:
    """What the prices of all collectives of a mesh depend on."""
    apart = strides(mesh, order)
    if not reaches:
        return tuple(apart[axis] for axis in live(mesh, USUAL_ORDER))
    groups = [(getattr(mesh, axis), apart[axis]) for axis in live(mesh, USUAL_ORDER)]
    data = [(getattr(mesh, axis), apart[axis]) for axis in _DATA]
    both = [*data, (mesh.cp, apart["cp"])]
    groups += [(mesh.num_shares, mean_stride(*data)), (mesh.num_shares * mesh.cp, mean_stride(*both))]
    near = tuple(min(degree, reach // stride) for (degree, stride), reach in product(groups, reaches))
    return (*near, *(min(apart["pp"], reach) for reach in reaches if mesh.pp > 1))
