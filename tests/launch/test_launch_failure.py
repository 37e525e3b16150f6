"""Of several dead workers the one that failed first is named, with how and with its last lines."""

import json
from pathlib import Path

import pytest

from launch_builders import run_folder
from meshwright.errors import LossError, WorkerError, to_json
from meshwright.launch import RunFolder
from meshwright.launch._failure import agent_failure, failure
from meshwright.launch._processes import Exit

LOST_PEER = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234\n"
AGENT = [Exit(rank=-1, code=10)]
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: odd\n'


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path)


def test_a_killed_worker_goes_before_those_that_lost_it(folder: RunFolder) -> None:
    folder.log(0, "err").write_text(TRACEBACK + LOST_PEER, encoding="utf-8")
    folder.log(1, "err").write_text("", encoding="utf-8")
    error = failure([Exit(rank=0, code=1), Exit(rank=1, code=-9)], folder=folder, command="python train.py")
    assert str(error) == (
        "worker 1 was killed by signal 9 (SIGKILL)\n"
        "  because: something outside the run killed it; the operating system does so when memory runs out; "
        f"{folder.path}/logs/rank-1.err is empty\n"
        "  instead: leave memory for the rest of the machine: meshwright run --memory SIZE SCRIPT\n"
        "  next:    python train.py"
    )
    assert error.exit_code == 10


def test_a_worker_s_own_error_goes_first_and_keeps_its_exit_code(folder: RunFolder) -> None:
    own = LossError("the loss is nan in step 3", cause="a division by zero")
    folder.error(1).write_text(to_json(own), encoding="utf-8")
    folder.error(0).write_text(to_json(WorkerError("worker 0 waited for another worker")), encoding="utf-8")
    error = failure([Exit(rank=0, code=10), Exit(rank=1, code=9)], folder=folder, command="python train.py")
    assert str(error) == ("the loss is nan in step 3\n  because: a division by zero\n  next:    python train.py")
    assert error.exit_code == 9


def test_a_python_error_is_quoted_without_torch_s_prefix(folder: RunFolder) -> None:
    prefixed = "".join(f"[rank1]: {line}\n" for line in TRACEBACK.splitlines())
    folder.log(1, "err").write_text(prefixed, encoding="utf-8")
    error = failure([Exit(rank=1, code=1)], folder=folder)
    assert error.fact == "worker 1 ended with exit code 1: ValueError: odd"
    assert error.cause == (
        f"the script raised an error; the last lines of {folder.path}/logs/rank-1.err:\n"
        "      Traceback (most recent call last):\n"
        '        File "train.py", line 3, in <module>\n'
        "      ValueError: odd"
    )
    assert error.command == f"less {folder.path}/logs/rank-1.err"


def test_what_was_on_the_screen_is_not_repeated(folder: RunFolder) -> None:
    folder.log(0, "err").write_text(TRACEBACK, encoding="utf-8")
    error = failure([Exit(rank=0, code=1)], folder=folder, shown=0)
    assert error.cause == f"the script raised an error; see above, or {folder.path}/logs/rank-0.err"


def test_a_silent_end_is_told_as_one(folder: RunFolder) -> None:
    folder.log(0, "err").write_text("", encoding="utf-8")
    error = failure([Exit(rank=0, code=7)], folder=folder)
    assert error.fact == "worker 0 ended with exit code 7"
    assert error.cause.startswith("the script, or a library that it uses, ended the process without an error")


def test_the_agent_s_list_of_the_dead_is_read(folder: RunFolder) -> None:
    folder.log(1, "err").write_text("", encoding="utf-8")
    folder.failures.write_text(json.dumps({"0": 1, "1": -11}), encoding="utf-8")
    folder.log(0, "err").write_text(LOST_PEER, encoding="utf-8")
    assert agent_failure(AGENT, folder=folder).fact == "worker 1 was killed by signal 11 (SIGSEGV)"


def test_the_agent_s_own_error_is_passed_on(folder: RunFolder) -> None:
    folder.agent_error.write_text(to_json(WorkerError("cannot listen at host:29500")), encoding="utf-8")
    assert agent_failure(AGENT, folder=folder).fact == "cannot listen at host:29500"


def test_an_agent_that_fell_over_is_told_with_its_log(folder: RunFolder) -> None:
    folder.agent_log("err").write_text("out of file descriptors\n", encoding="utf-8")
    error = agent_failure([Exit(rank=-1, code=1)], folder=folder)
    assert error.fact == "torch's agent ended with exit code 1"
    assert error.cause.endswith("\n      out of file descriptors")
