"""Python processes for the tests in which how a process starts is not the claim: forked from one that has torch loaded.

    def test_a_script(starter, tmp_path):
        process = starter.start(["-m", "meshwright.run.worker", "train.py"], cwd=tmp_path, environment={...})
        out, err = process.communicate(timeout=90)

A start of the interpreter with torch and its compiler takes 2.8 s of processor time, a fork 0.02 s. A forked process
has a folder, an environment, arguments, output and errors of its own and ends as Python ends: with its exit functions
and its exit code. What it lacks is a fresh interpreter: where modules are loaded, or which environment they find when
they are, is what is claimed, start `sys.executable`.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = ("torch._dynamo", "meshwright.run._engine", "meshwright.run._verify", "meshwright.parallel.program")
STEP = 0.01


class Started:
    """A process that was forked; like `subprocess.Popen`, as far as tests ask.

    Args:
        starter: that forked it.
        pid: its number.
        folder: where its output and its errors are written.
    """

    def __init__(self, starter: "Starter", pid: int, folder: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter
        self._folder = folder

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._starter.ask({"ended": self.pid})
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for its end; gives its output and its errors.

        Args:
            timeout: how long to wait (s).

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(STEP)
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err


class Starter:
    """The process that others are forked from, started at its first use."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def start(self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Started:
        """Starts `python ARGUMENTS`.

        Args:
            arguments: a script, or `-m` and a module, and their own arguments.
            cwd: folder it runs in.
            environment: all of its environment.
        """
        folder = Path(tempfile.mkdtemp(prefix="meshwright-test-"))
        start = {"arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment), "folder": str(folder)}
        return Started(self, self.ask({"start": start}), folder)

    def ask(self, question: dict[str, Any]) -> Any:
        """The answer of the process that others are forked from."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def stop(self) -> None:
        """Ends it."""
        if self._server is not None:
            self._server.communicate()
        self._server = None


def _serve() -> None:
    """Forks what is asked for until nobody is left to ask; returns in the forked processes and at the end."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: int | None = os.fork()
            if answer == 0:
                _run(**question["start"])
                return
        else:
            pid, status = os.waitpid(question["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


def _run(arguments: list[str], cwd: str, environment: dict[str, str], folder: str) -> None:
    """Makes this process the one that was asked for, and runs it."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{folder}/out", os.O_WRONLY | os.O_CREAT),
        (2, f"{folder}/err", os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], cwd
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
