"""Products of matrices."""

from meshwright.parallel.tensor._operation import Operation
from meshwright.parallel.tensor.rules._rule import LetterRule, Letters, broadcast, distinct


class Linear(LetterRule):
    """x (…, k) times the transposed weight (n, k), plus a bias (n): split by n, or by k into partial sums."""

    def letters(self, operation: Operation) -> Letters | None:
        """Leading dims, n and k."""
        if len(operation.shapes[1]) != 2:
            return None
        leading = distinct("b", len(operation.shapes[0]) - 1)
        operands = [(*leading, "k"), ("n", "k"), ("n",)]
        return Letters(
            operands=tuple(operands[: len(operation.operands)]),
            results=((*leading, "n"),),
            summed=frozenset("k"),
            addends=frozenset((2,)),
        )


class MatrixProduct(LetterRule):
    """a (…, m, k) times b (…, k, n) with broadcast leading dims, as `matmul`, `mm`, `bmm`, `mv` and `dot` have it."""

    def letters(self, operation: Operation) -> Letters | None:
        """Batch dims, m, n and k."""
        first, second = operation.shapes
        return Letters(
            operands=(_left(first, operation), _right(second, operation)),
            results=(_product_letters(first, second, operation.results[0]),),
            summed=frozenset("k"),
        )


class AddedProduct(LetterRule):
    """An addend plus a product: `addmm`, `baddbmm`, `addmv`."""

    def letters(self, operation: Operation) -> Letters | None:
        """Those of the product; the addend is broadcast to it."""
        addend, first, second = operation.shapes
        result = operation.results[0]
        product = _product_letters(first, second, result)
        dims = [name and product[int(name[1:])] for name in broadcast([addend], result)[0]]
        return Letters(
            operands=(tuple(dims), _left(first, operation), _right(second, operation)),
            results=(product,),
            summed=frozenset("k"),
            addends=frozenset((0,)),
        )


class Einsum(LetterRule):
    """`einsum` without ellipsis or repeated letters in one operand."""

    def letters(self, operation: Operation) -> Letters | None:
        """The equation's own; those that the result lacks are summed."""
        equation = operation.argument("equation").replace(" ", "")
        if "." in equation or "->" not in equation:
            return None
        left, result = equation.split("->")
        operands = left.split(",")
        if any(len(set(names)) < len(names) for names in operands):
            return None
        return Letters(
            operands=tuple(tuple(names) for names in operands),
            results=(tuple(result),),
            summed=frozenset(left.replace(",", "")) - frozenset(result),
        )


class GroupedProduct(LetterRule):
    """Rows in groups, each group times its own matrix: a (t, k), b (e, k, n)."""

    def letters(self, operation: Operation) -> Letters | None:
        """n and k; rows and groups belong together and stay whole."""
        if len(operation.shapes[0]) != 2 or len(operation.shapes[1]) != 3 or len(operation.operands) != 3:
            return None
        return Letters(operands=(("", "k"), ("", "k", "n"), ("",)), results=(("", "n"),), summed=frozenset("k"))


def _left(shape: tuple[int, ...], operation: Operation) -> tuple[str, ...]:
    return ("k",) if len(shape) == 1 else (*_batch(shape, operation), "m", "k")


def _right(shape: tuple[int, ...], operation: Operation) -> tuple[str, ...]:
    return ("k",) if len(shape) == 1 else (*_batch(shape, operation), "k", "n")


def _batch(shape: tuple[int, ...], operation: Operation) -> tuple[str, ...]:
    """Letters of the leading dims of an operand with at least two dims."""
    shapes = operation.shapes[-2:]
    matrices = sum(len(other) > 1 for other in shapes)
    batch = operation.results[0][: len(operation.results[0]) - matrices]
    return broadcast([shape[:-2]], batch)[0]


def _product_letters(first: tuple[int, ...], second: tuple[int, ...], result: tuple[int, ...]) -> tuple[str, ...]:
    rows = ("m",) if len(first) > 1 else ()
    columns = ("n",) if len(second) > 1 else ()
    return (*distinct("d", len(result) - len(rows) - len(columns)), *rows, *columns)
