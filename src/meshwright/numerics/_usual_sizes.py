"""In which sizes oneDNN multiplies where sizes change from step to step, as the tokens of an expert do.

oneDNN writes code for every size that it meets and keeps it for 1,024 of them: 0.6 MiB for a product of 1,024 × 192 ×
384, and as long as torch's own library takes for the whole product. A mixture of 4 blocks of 4 experts, whose experts
are sent other numbers of tokens at each step, held 50 MiB more after each of its steps. Where many sizes have been
met, a product is therefore cut: oneDNN multiplies as many rows as three further binary digits can say, torch's own
library what is left, fewer than an eighth.
"""

_DIGITS = 4
# Sizes taken as they are: levels of a pyramid, a ragged last batch and a validation are fewer.
_MANY = 8
# Shapes that are given to oneDNN at all: about 150 MiB of code.
_MOST = 256


class UsualSizes:
    """Which sizes have been met, of products `(rows, inner) @ (inner, columns)`."""

    def __init__(self) -> None:
        self._taken: set[tuple[int, int, int]] = set()
        self._rows: dict[tuple[int, int], set[int]] = {}
        self._inner: dict[tuple[int, int], set[int]] = {}

    def part(self, rows: int, inner: int, columns: int) -> tuple[int, int] | None:
        """How much of a product is oneDNN's.

        Returns:
            Rows and inner length, one of which may be shorter than the product's; None: nothing.
        """
        if (rows, inner, columns) in self._taken:
            return rows, inner
        of_rows, of_inner = (
            self._rows.setdefault((inner, columns), set()),
            self._inner.setdefault((rows, columns), set()),
        )
        if len(of_rows) >= _MANY:
            rows = _cut(rows)
        elif len(of_inner) >= _MANY:
            inner = _cut(inner)
        else:
            of_rows.add(rows)
            of_inner.add(inner)
        if (rows, inner, columns) not in self._taken:
            if len(self._taken) >= _MOST:
                return None
            self._taken.add((rows, inner, columns))
        return rows, inner


def _cut(length: int) -> int:
    """The length with its first binary digits alone."""
    rest = max(0, length.bit_length() - _DIGITS)
    return length >> rest << rest
