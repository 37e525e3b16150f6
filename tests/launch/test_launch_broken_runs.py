"""Runs of one tiny script that end badly: the message says why, the folder is whole and no process is left."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from launch_builders import LIMIT, last_folder, run_tiny, start_tiny
from meshwright.cost import Measurement
from meshwright.documents import read_toml
from starter import Starter


def _left(place: Path) -> list[Sequence[str]]:
    """Command lines of processes that still work for the script."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(place) in word for word in words):
            found.append(words)
    return found


def _wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def _steps_are_recorded(place: Path) -> bool:
    return any(path.stat().st_size > 0 for path in place.glob("outputs/*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("vector", 9, "meshwright: the loss has shape [8]; it has to be a scalar\n"),
        ("nan", 9, "meshwright: the loss is nan in step 1\n"),
        ("exit", 10, "meshwright: worker 0 ended with exit code 7\n"),
        ("raise", 10, "meshwright: worker 0 ended with exit code 1: ValueError: the fifth batch is odd\n"),
    ],
)
def test_what_ends_one_worker_is_named(place: Path, starter: Starter, mode: str, code: int, message: str) -> None:
    found, _, err = run_tiny(place, "--plan one.toml", mode, python=starter.python)
    assert found == code
    assert message in err
    assert read_toml(Measurement, last_folder(place).measurement).status == "failed"
    assert (last_folder(place).path / "report.html").is_file()
    assert err.count("ValueError: the fifth batch is odd\n") == (2 if mode == "raise" else 0)


def test_a_killed_worker_ends_the_other_and_is_named(place: Path) -> None:
    code, _, err = run_tiny(place, "--plan two.toml", "kill")
    folder = last_folder(place)
    name = f"outputs/{folder.path.name}"
    assert code == 10
    assert err.endswith(
        "meshwright: worker 1 was killed by signal 9 (SIGKILL)\n"
        "  because: something outside the run killed it; the operating system does so when memory runs out; "
        f"{name}/logs/rank-1.err is empty\n"
        "  instead: leave memory for the rest of the machine: meshwright run --memory SIZE SCRIPT\n"
        f"  next:    python {place}/tiny.py kill\n"
    )
    measurement = read_toml(Measurement, folder.measurement)
    assert (measurement.status, measurement.reason) == ("failed", "worker 1 was killed by signal 9 (SIGKILL)")
    assert measurement.steps >= 1
    assert _left(place) == []


def test_ctrl_c_ends_every_worker_and_leaves_a_whole_folder(place: Path) -> None:
    process = start_tiny(place, "--plan two.toml --json", "long")
    _wait_for(lambda: _steps_are_recorded(place), "a first step")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    measurement = json.loads(out)["measurement"]
    assert measurement["status"] == "interrupted"
    folder = last_folder(place)
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, measurement["steps"] + 1))
    assert all(path.is_file() for path in (folder.record, folder.plan, folder.measurement, folder.path / "report.html"))
    assert _left(place) == []


def test_workers_do_not_outlive_a_killed_launcher(place: Path) -> None:
    process = start_tiny(place, "--plan two.toml", "long")
    _wait_for(lambda: _steps_are_recorded(place), "a first step")
    process.kill()
    process.communicate(timeout=LIMIT)
    _wait_for(lambda: _left(place) == [], "the workers' end")
