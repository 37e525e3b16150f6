"""The order of the mesh's axes on the devices in users' words: `pipeline,data,context,tensor`, from far to near."""

from itertools import permutations

from meshwright.cost import Axis, Mesh
from meshwright.cost.hybrid import USUAL_ORDER, Order, live
from meshwright.errors import PlanError, suggestion
from meshwright.plan._goal import Pins

_WORDS: dict[str, Order] = {
    "pipeline": ("pp",), "data": ("dp_replicate", "dp_shard"), "replicas": ("dp_replicate",), "shards": ("dp_shard",),
    "context": ("cp",), "tensor": ("tp",),
}  # fmt: skip
USUAL_ORDER_PIN = "pipeline,data,context,tensor"


def order_of(text: str) -> Order:
    """The axes that a text names, from the one whose neighbours stand farthest apart to the nearest.

    Raises:
        PlanError: it does not name each axis once, or another axis lies between shards and their replicas.
    """
    words = [word.strip() for word in text.split(",")]
    found: Order = tuple(axis for word in words for axis in _WORDS.get(word, ()))
    unknown = [word for word in words if word not in _WORDS]
    together = sorted(found) == sorted(USUAL_ORDER) and abs(found.index("dp_shard") - found.index("dp_replicate")) == 1
    if unknown or not together:
        raise PlanError(
            f"order = {text!r} is no order of the axes",
            cause=(suggestion(unknown[0], list(_WORDS)) if unknown else "")
            or "it names pipeline, data, context and tensor, each once, from the axis whose neighbours stand farthest "
            "apart to the nearest; shards,replicas in the place of data puts the shards outside",
            alternatives=[f"--set order={one}" for one in _examples()],
            command="meshwright plan SCRIPT, without order",
        )
    return found


def agrees(mesh: Mesh, order: Order, pinned: str | None) -> bool:
    """Whether the axes with more than one member are ordered as is asked for."""
    return pinned is None or live(mesh, order) == live(mesh, order_of(pinned))


def worded(mesh: Mesh, order: Order) -> str:
    """The axes with more than one member from far to near, as users call them: `tensor, data`."""
    several, words = live(mesh, order), list[str]()
    both = {"dp_replicate", "dp_shard"} <= set(several)
    for axis in several:
        words.append(_word(axis) if both or axis not in _WORDS["data"] else "data")
    return ", ".join(words).replace("replicas, shards", "data")


def pin_of(order: Order) -> str:
    """An order of all axes as a pin asks for it."""
    return ",".join(map(_word, order)).replace("replicas,shards", "data")


def check_order(pins: Pins) -> None:
    """Refuses a pin that is no order.

    Raises:
        PlanError: with some that are.
    """
    if pins.order is not None:
        order_of(pins.order)


def _word(axis: Axis) -> str:
    return next(word for word, axes in _WORDS.items() if axes == (axis,))


def _examples() -> list[str]:
    """The usual order and all others that put one axis elsewhere."""
    usual = tuple(USUAL_ORDER_PIN.split(","))
    every = [one for one in permutations(usual) if _moved(one, usual)]
    return [",".join(one) for one in every]


def _moved(one: tuple[str, ...], usual: tuple[str, ...]) -> bool:
    """Whether an order is the usual one but for at most one axis."""
    return any([word for word in one if word != moved] == [word for word in usual if word != moved] for moved in usual)
