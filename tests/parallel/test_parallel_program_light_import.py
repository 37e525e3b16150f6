"""A library that torch loads for its annotations is loaded when it is used."""

import sys
from importlib.util import find_spec

import pytest

from meshwright.parallel.program import _light_import
from meshwright.parallel.program._light_import import annotations_only


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_light_import, "_NAME", "colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


def test_annotations_do_not_load_it_and_a_later_use_does() -> None:
    torchs = {"__name__": "torch._functorch.graphs"}
    with annotations_only():
        exec("import colorsys\ndef made() -> colorsys.rgb_to_hsv: return colorsys.rgb_to_hsv(1, 0, 0)", torchs)
        assert not hasattr(sys.modules["colorsys"], "__file__")
    assert "colorsys" not in sys.modules
    assert torchs["made"]() == (0.0, 1, 1)
    assert hasattr(sys.modules["colorsys"], "__file__")


def test_others_get_the_library_itself_meanwhile() -> None:
    with annotations_only():
        from colorsys import hsv_to_rgb

        found = sys.modules["colorsys"]
    assert hsv_to_rgb(0.0, 1.0, 1.0) == (1.0, 0.0, 0.0)
    assert sys.modules["colorsys"] is found is sys.modules[hsv_to_rgb.__module__]


def test_where_it_lies_is_known_meanwhile() -> None:
    lies = find_spec("colorsys")
    assert lies is not None
    with annotations_only():
        found = find_spec("colorsys")
        assert found is not None
        assert found.origin == lies.origin
    assert "colorsys" not in sys.modules


def test_what_is_loaded_stays() -> None:
    import colorsys

    with annotations_only():
        assert sys.modules["colorsys"] is colorsys
