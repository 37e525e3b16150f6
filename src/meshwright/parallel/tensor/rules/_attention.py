"""Scaled dot-product attention, by example, head, query position, or by position of everything at once."""

from meshwright.parallel.tensor._layout import COPIED, Layout, Split
from meshwright.parallel.tensor._operation import Choice, Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters

# In the `meta` of attention that is to be split by position: makes of a communicator and a split what does it.
RING = "ring"


class Attention(LetterRule):
    """q (…, h, l, e), k and v (…, h, s, e), a mask that is broadcast to (…, h, l, s).

    With grouped queries each worker's query heads meet its own key heads, because both are split into one range per
    worker.
    """

    def choice(self, operation: Operation, place: int, split: Split) -> Choice | None:
        """By letter; where a node asks for a ring, by position of queries and of keys and values, which go round it."""
        query, key = operation.shapes[:2]
        ring = (
            bool(operation.node.meta.get(RING))
            and split.dim == len(query) - 2
            and (place < 3 or place == len(operation.shapes))
            and len(query) == 4
            and query[-2] == key[-2]
            and not operation.argument("dropout_p", 0.0)
        )
        return _ring(operation, split) if ring else super().choice(operation, place, split)

    def letters(self, operation: Operation) -> Letters | None:
        """Leading dims, heads, and query positions where no causal mask counts them."""
        query, key = operation.shapes[:2]
        leading = tuple(f"b{dim}" for dim in range(len(query) - 3))
        head = ("h",) if len(query) > 2 else ()
        position = "" if operation.argument("is_causal") else "l"
        queries, keys = (*leading, *head, position, ""), (*leading, *head, "", "")
        operands: list[tuple[str, ...]] = [queries, keys, keys]
        for shape in operation.shapes[3:]:
            operands.append(_mask_letters(shape, query, (*leading, *head, position, "")))
        single = frozenset("h") if len(query) > 2 and query[-3] != key[-3] else frozenset()
        return Letters(operands=tuple(operands), results=(queries,), single=single)


class Ring(LetterRule):
    """Attention that goes round the ring of another axis: by example or head."""

    def letters(self, operation: Operation) -> Letters | None:
        """Leading dims and heads of queries, keys, values and a mask."""
        query, key = operation.shapes[:2]
        leading = (*(f"b{dim}" for dim in range(len(query) - 3)), "h", "", "")
        masks = tuple(_mask_letters(shape, query, leading) for shape in operation.shapes[3:])
        single = frozenset("h") if query[-3] != key[-3] else frozenset()
        return Letters(operands=(leading,) * 3 + masks, results=(leading,), single=single)


def _ring(operation: Operation, split: Split) -> Choice:
    length = operation.shapes[0][-2]
    masks: tuple[Layout, ...] = tuple(
        Split(len(shape) - 2, split.groups) if len(shape) > 1 and shape[-2] == length > 1 else COPIED
        for shape in operation.shapes[3:]
    )
    return Choice((split, split, split, *masks), (split,), "ring")


def _mask_letters(shape: tuple[int, ...], query: tuple[int, ...], letters: tuple[str, ...]) -> tuple[str, ...]:
    offset = len(query) - len(shape)
    return tuple(
        letters[offset + dim] if dim < len(shape) - 1 and size == query[offset + dim] and size > 1 else ""
        for dim, size in enumerate(shape)
    )
