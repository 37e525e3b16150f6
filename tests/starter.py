"""Python processes for the tests in which how a process starts is not the claim: forked from one that has torch loaded.

    def test_a_script(starter):
        done = subprocess.run([starter.python, "train.py"], ...)      # a script, or -m and a module

A start of the interpreter with torch and its compiler takes 2.8 s of processor time, `starter.python` 0.05 s. It is a
program that asks a server to fork, hands over its folder, environment and files, passes signals on and ends as the
forked process ends, which ends when it does. What is forked takes `starter.python` for its interpreter too: workers of
a launcher are forked as their launcher is. torch computes with one thread unless it is told otherwise. It lacks a fresh
interpreter: where modules are loaded, or which environment they find then, is what is claimed, start `sys.executable`.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

PRELOADED = (
    "torch._dynamo", "torch.distributed.run", "meshwright.cli._app", "meshwright.run._engine",
    "meshwright.run._verify", "meshwright.parallel.program",
)  # fmt: skip
WORD = 8
PROGRAM = """#!{interpreter} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    start = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ), "python": sys.argv[0]}}
    text = json.dumps(start).encode()
    socket.send_fds(link, [len(text).to_bytes({word}, "big")], [0, 1, 2])
    link.sendall(text)
    pid = int.from_bytes(link.recv({word}), "big")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int.from_bytes(link.recv({word}), "big", signed=True)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Starter:
    """The server that others are forked from, started at its first use."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="meshwright-test-")
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def python(self) -> str:
        """The program that takes the place of the interpreter."""
        program, address = Path(self._folder.name) / "python", str(Path(self._folder.name) / "socket")
        if self._server is None:
            program.write_text(PROGRAM.format(interpreter=sys.executable, address=address, word=WORD))
            program.chmod(0o700)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(64)
                number = listener.fileno()
                self._server = subprocess.Popen(
                    [sys.executable, __file__, str(number)],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    pass_fds=[number],
                )
        return str(program)

    def stop(self) -> None:
        """Ends the server."""
        if self._server is not None:
            self._server.communicate()
        self._folder.cleanup()


def _serve(listener: socket.socket) -> None:
    """Forks what is asked for until standard input is closed; returns in the forked processes, too."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, 0, *running.values()], [], [], 0.01 if running else None)
        for pid, link in list(running.items()):
            if link in ready:  # a program says nothing more: it has ended
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(OSError), link:
                    link.sendall(os.waitstatus_to_exitcode(status).to_bytes(WORD, "big", signed=True))
                del running[pid]
        if 0 in ready:
            return
        if listener in ready:
            link, _ = listener.accept()
            length, files, _, _ = socket.recv_fds(link, WORD, 3)
            start = json.loads(link.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
            pid = os.fork()
            if pid == 0:
                for inherited in (listener, link, *running.values()):
                    inherited.close()
                _run(files=files, **start)
                return
            for number in files:
                os.close(number)
            link.sendall(pid.to_bytes(WORD, "big"))
            running[pid] = link


def _run(*, files: list[int], arguments: list[str], cwd: str, environment: dict[str, str], python: str) -> None:
    """Makes this process the one that was asked for, and runs it."""
    for number, opened in enumerate(files):
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = python
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
        arguments = arguments[2:]
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], cwd
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
