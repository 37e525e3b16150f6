"""The committed support table is complete, holds nothing but equal and declined, and still says what happens."""

import pytest

from workers import Pools
from zoo import ZOO
from zoo._methods import COMBINATIONS, METHODS, Method
from zoo._rotation import of_today
from zoo._table import PAGE, page, read
from zoo.support import measured

_TELLING = [
    ("t5", "tensor"),
    ("unet", "pipeline"),
    ("mixtral", "expert"),
    ("early-exit", "pipeline"),
    ("llama", "context"),
]


def _cells() -> list[tuple[str, str]]:
    """One model of the day for every second method, and half of those that have found most errors."""
    chosen = dict.fromkeys(of_today(_TELLING, every=2))
    for number, method in of_today(list(enumerate(METHODS)), every=2):
        suited = [model for model in ZOO if method.suits(model)]
        for model in of_today(suited, every=len(suited), offset=7 * number, lasting=2):
            chosen[model.name, method.name] = None
    together = [(model.name, method.name) for method in COMBINATIONS for model in ZOO if method.suits(model)]
    chosen |= dict.fromkeys(of_today(together, every=len(together)))
    return list(chosen)


def _method(name: str) -> Method:
    return next(method for method in (*METHODS, *COMBINATIONS) if method.name == name)


def test_the_page_is_that_of_the_data() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read()), "python tests/zoo/support.py --methods"


@pytest.mark.parametrize("method", [*METHODS, *COMBINATIONS], ids=lambda method: method.name)
def test_every_model_is_equal_or_declined_with_a_reason(method: Method) -> None:
    table = read()
    suited = [model.name for model in ZOO if method.suits(model)]
    assert [name for name in suited if method.name not in table.get(name, {})] == []
    cells = {name: table[name][method.name] for name in suited}
    assert {name: cell for name, cell in cells.items() if cell.verdict not in ("equal", "declined")} == {}
    assert [name for name, cell in cells.items() if cell.verdict == "declined" and not cell.reason] == []


@pytest.mark.parametrize(("model", "method"), _cells())
def test_a_cell_is_as_the_table_says(workers: Pools, model: str, method: str) -> None:
    found, expected = measured(workers, model, _method(method)), read()[model][method]
    assert (found.verdict, found.reason) == (expected.verdict, expected.reason)
