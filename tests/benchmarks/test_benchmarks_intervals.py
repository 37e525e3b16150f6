"""Intervals of predictions, and how often they hold runs of a model that they did not see."""

from math import exp

import numpy as np
import pytest

from calibration_intervals import Runs, shares_inside, with_intervals


def _runs(errors: dict[str, float], *, elsewhere: float, stalled: str = "", new: str = "") -> Runs:
    """Ten runs of each model, all with the same error; and ten of another source, left out with `elsewhere`."""
    models = [name for name in (*errors, "other: x") for _ in range(10)]
    ones = np.ones(len(models))
    return Runs(
        models=np.array(models),
        sources=np.array([name.partition(":")[0] for name in models]),
        frameworks=np.array(["f" if not name.startswith("other") else "g" for name in models]),
        smooth=np.array([name != stalled for name in models]),
        low=ones, high=ones, spread=2.0,
        devices=np.array(["seen" if name != new else "unseen" for name in models]),
        by_model=np.array([errors.get(name, 0.0) for name in models]),
        by_source=np.array([elsewhere if name.startswith("other") else 0.0 for name in models]),
    )  # fmt: skip


def test_an_interval_is_as_wide_as_nine_in_ten_errors_and_one_model_more_elsewhere() -> None:
    """Two models with errors of 0.1 and 0.3, sources left out at 0 and 0.6: (2 · 0.3 + 0.3) / 3; unknown: 0.3."""
    runs = _runs({"s: a": 0.1, "s: b": 0.3}, elsewhere=0.6)
    document = with_intervals({"frameworks": {"f": {}, "unknown": {}}}, runs)
    assert document["frameworks"]["f"] == {"low": round(exp(-0.3), 3), "high": round(exp(0.3), 3)}
    assert document["frameworks"]["unknown"]["high"] == round(exp(0.3), 3)


def test_a_run_that_stalled_widens_nothing() -> None:
    """An error of 2 of a model whose runs stalled: the interval is that of the other one, (0.1 + 0) / 2."""
    runs = _runs({"s: a": 0.1, "s: b": 2.0}, elsewhere=0.0, stalled="s: b")
    assert runs.width("f") == pytest.approx(0.05)


def test_the_share_inside_is_counted_by_intervals_that_did_not_see_the_model() -> None:
    """For 0.1 the width is that of 0.3, (0.3 + 0) / 2; for 0.3 it is that of 0.1, which is too narrow."""
    shares = shares_inside(_runs({"s: a": 0.1, "s: b": 0.3}, elsewhere=0.0))
    assert shares == {"s": 0.5, "other": 1.0, "sources": 0.75, "runs": pytest.approx(2 / 3)}


def test_on_a_device_that_no_other_model_ran_on_an_interval_is_wider() -> None:
    """By a factor of 2, which holds an error of 0.3 beyond the 0.05 of the other model."""
    runs = _runs({"s: a": 0.1, "s: b": 0.3}, elsewhere=0.0, new="s: b")
    assert shares_inside(runs)["s"] == 1.0
