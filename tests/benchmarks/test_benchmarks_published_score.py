"""Scores of predictions, by hand."""

import csv
from pathlib import Path

import pytest

from published import COLUMNS
from published_score import checks_of, read_scored, source_row

# Times measured and predicted (s): the second fastest is predicted fastest; one is outside of its interval by far.
RUNS = ((10.0, 11.0), (8.0, 7.6), (9.0, 10.0), (20.0, 20.0), (30.0, 33.0), (40.0, 40.0), (50.0, 50.0), (5.0, 8.0))


def _row(number: int, measured: float | None, memory: str = "") -> dict[str, str]:
    return {
        "row_id": str(number), "source": "hand", "model": "m", "n_devices": "8", "global_batch": "8", "seq_len": "1",
        "status": "ok" if measured else "oom", "step_time_s": str(measured or ""), "tokens_per_s_per_device": "",
        "memory_gib": memory,
    }  # fmt: skip


def _scores(tmp_path: Path) -> dict[str, float]:
    rows = [_row(number, measured, memory="10") for number, (measured, _) in enumerate(RUNS)]
    lines = [[str(number), guess, guess * 0.9, guess * 1.1, 9.0, "true"] for number, (_, guess) in enumerate(RUNS)]
    rows += [_row(8, None), _row(9, None)]
    lines += [["8", 1.0, 0.9, 1.1, 99.0, "false"], ["9", 99.0, 90, 110, 9.0, "true"]]
    path = tmp_path / "predictions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(COLUMNS), *lines])
    return source_row("hand", read_scored(rows, path)["hand"], rows=20)


def test_every_figure(tmp_path: Path) -> None:
    """Regret of choosing 8 s where 5 s were possible; all memory 10 % low; one of two failures foretold."""
    found = _scores(tmp_path)
    assert found["coverage"] == 0.5
    assert found["time_median"] == pytest.approx(0.075)
    assert found["inside_interval"] == pytest.approx(7 / 8)
    assert found["regret_mean"] == found["regret_worst"] == pytest.approx(1 - 5 / 8)
    assert found["memory_median"] == pytest.approx(0.1)
    assert (found["kept"], found["caught"]) == (1.0, 0.5)
    assert 0.9 < found["rank"] < 1


def test_a_check_per_target(tmp_path: Path) -> None:
    """Those that hold and those that do not."""
    holds = {check.name.removeprefix("hand: "): check.holds for check in checks_of(_scores(tmp_path))}
    assert len(holds) == 10
    assert [name for name, value in holds.items() if value] == [
        "time_median", "memory_p90", "rank", "kept", "inside_interval"
    ]  # fmt: skip
