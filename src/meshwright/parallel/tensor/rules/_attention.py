"""Scaled dot-product attention, by example, head, or query position."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters


class Attention(LetterRule):
    """q (…, h, l, e), k and v (…, h, s, e), a mask that is broadcast to (…, h, l, s).

    With grouped queries each worker's query heads meet its own key heads, because both are split into one range per
    worker.
    """

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


def _mask_letters(shape: tuple[int, ...], query: tuple[int, ...], letters: tuple[str, ...]) -> tuple[str, ...]:
    offset = len(query) - len(shape)
    return tuple(
        letters[offset + dim] if dim < len(shape) - 1 and size == query[offset + dim] and size > 1 else ""
        for dim, size in enumerate(shape)
    )
