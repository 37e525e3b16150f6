"""How a worker ends when it is told to: by its parent's death, by a signal, or by force a little later."""

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from meshwright.units import Seconds

GRACE: Seconds = 4.0
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1


class Ending:
    """Ends this process when everything that runs at exit has run, before Python takes itself apart.

    A thread of gloo that gives its last tensor back meanwhile asks for an interpreter that is going away, and the
    process aborts. Make it before anything else registers with `atexit`: what is registered first runs last.

    Attributes:
        code: to exit with.
    """

    def __init__(self) -> None:
        self.code = 1
        self._process = os.getpid()
        atexit.register(self._leave)

    def _leave(self) -> None:
        if os.getpid() != self._process:
            return
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(self.code)


def end_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent process dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def end_on_signals(last_words: Callable[[], None]) -> None:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and ends the process by force where that is not heard.

    A worker that waits in a collective runs no Python; the kernel writes to a socket all the same, and a thread that
    reads it says the last words when the grace is over.

    Args:
        last_words: writes down what there is.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_force, args=(reader, writer, last_words), name="meshwright-ending", daemon=True).start()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _forget() -> None:
    """In a process that the script forks: a signal to it is not one to the worker, whose socket it shares."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _force(reader: socket.socket, writer: socket.socket, last_words: Callable[[], None]) -> None:
    with reader, writer:
        while reader.recv(1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        time.sleep(GRACE)
        try:
            last_words()
        finally:
            os._exit(INTERRUPTED)
