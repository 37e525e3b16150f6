"""Whatever was started ends: by itself, when asked, or by force; children too."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from meshwright.errors import WorkerError
from meshwright.launch._interrupt import Interrupts
from meshwright.launch._processes import Exit, Processes
from meshwright.launch._watch import Watched, watch

SLEEPS = "import time; time.sleep(600)"
IGNORES = f"""
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
{SLEEPS}
"""
HAS_A_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", {SLEEPS!r}])
print(child.pid, flush=True)
child.wait()
"""


def _start(processes: Processes, rank: int, code: str, folder: Path) -> None:
    processes.start(
        rank,
        [sys.executable, "-S", "-c", code],
        environment={},
        out=folder / f"{rank}.out",
        err=folder / f"{rank}.err",
    )


def _wait_for_text(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not path.read_text(encoding="utf-8") and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.read_text(encoding="utf-8")


def _nothing() -> None:
    pass


def test_exits_are_told_once(tmp_path: Path) -> None:
    with Processes() as processes:
        _start(processes, 4, "import sys; print('out'); sys.exit(3)", tmp_path)
        processes.wait(30)
        assert processes.ended() == (Exit(rank=4, code=3),)
        assert processes.ended() == ()
        assert processes.running == ()
    assert (tmp_path / "4.out").read_text(encoding="utf-8") == "out\n"


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    with Processes() as processes:
        _start(processes, 0, IGNORES, tmp_path)
        _wait_for_text(tmp_path / "0.out")
        assert processes.stop(grace=0.2) == (Exit(rank=0, code=-signal.SIGKILL),)


def test_children_end_with_it(tmp_path: Path) -> None:
    with Processes() as processes:
        _start(processes, 0, HAS_A_CHILD, tmp_path)
        child = psutil.Process(int(_wait_for_text(tmp_path / "0.out")))
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with Processes() as processes, pytest.raises(WorkerError, match="worker 0 could not be started: No such file"):
        processes.start(0, ["/nowhere"], environment={}, out=tmp_path / "o", err=tmp_path / "e")


def test_the_leader_s_end_is_the_end(tmp_path: Path) -> None:
    with Processes() as processes, Interrupts() as interrupts:
        _start(processes, 0, "pass", tmp_path)
        _start(processes, 1, SLEEPS, tmp_path)
        assert watch(processes, interrupts=interrupts, refresh=_nothing, leader=0) == Watched(ending="finished")
        assert processes.running == ()


def test_one_failure_ends_the_others(tmp_path: Path) -> None:
    with Processes() as processes, Interrupts() as interrupts:
        _start(processes, 0, SLEEPS, tmp_path)
        _start(processes, 1, "import os; os._exit(5)", tmp_path)
        watched = watch(processes, interrupts=interrupts, refresh=_nothing)
    assert watched == Watched(ending="failed", failures=(Exit(rank=1, code=5),))


def test_the_limit_ends_all(tmp_path: Path) -> None:
    with Processes() as processes, Interrupts() as interrupts:
        _start(processes, 0, SLEEPS, tmp_path)
        assert watch(processes, interrupts=interrupts, refresh=_nothing, limit=0.2).ending == "late"
        assert processes.running == ()


def test_an_interrupt_asks_and_a_second_one_kills(tmp_path: Path) -> None:
    with Processes() as processes, Interrupts() as interrupts:
        _start(processes, 0, IGNORES, tmp_path)
        _wait_for_text(tmp_path / "0.out")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.count == 2
        assert watch(processes, interrupts=interrupts, refresh=_nothing).ending == "interrupted"
        assert processes.running == ()


def test_outside_the_block_signals_mean_what_they_meant() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
