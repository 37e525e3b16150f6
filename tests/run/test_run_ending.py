"""A worker ends when it is told to, even where it hears nothing; a process that its script forked is no worker."""

import signal
import subprocess
import sys

import pytest

PREPARED = """
import os, signal, sys, threading, time
from meshwright.run import _ending
_ending.GRACE = 0.2
_ending.end_on_signals(lambda: print("last words", flush=True))
"""
DEAF = """
threading.Timer(0.1, os.kill, (os.getpid(), int(sys.argv[1]))).start()
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
FORKING = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"!")
    time.sleep(30)
    os._exit(0)
os.read(reader, 1)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.6)
print("child ended by signal", os.WTERMSIG(status))
"""


def run(code, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", PREPARED + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_does_not_end_by_itself_is_ended(number):
    found = run(DEAF, str(int(number)))
    assert (found.stdout, found.returncode) == ("last words\n", 130)


def test_a_signal_to_a_forked_process_is_not_one_to_the_worker():
    found = run(FORKING)
    assert (found.stdout, found.stderr, found.returncode) == ("child ended by signal 15\n", "", 0)


ENDING = """
import atexit, os, sys
from meshwright.run._ending import Ending
ending = Ending()
atexit.register(print, "exit function of the script")
class TakenApart:
    def __del__(self):
        os.write(1, b"Python took itself apart\\n")
kept = TakenApart()
child = os.fork()
if child == 0:
    atexit.unregister(print)
    sys.exit(5)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ending.code = int(sys.argv[1])
sys.exit(9)
"""


def test_a_process_ends_with_its_code_after_exit_functions_and_before_python_takes_itself_apart():
    command = [sys.executable, "-W", "ignore", "-c", ENDING, "7"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    taken_apart_by_the_child = "Python took itself apart\n"
    assert found.stdout == taken_apart_by_the_child + "child 5\nexit function of the script\n"
    assert (found.stderr, found.returncode) == ("", 7)
