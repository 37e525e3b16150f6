"""From dead workers to the one message that a person can act on."""

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from meshwright.errors import MeshwrightError, WorkerError, from_json
from meshwright.launch._processes import Exit
from meshwright.launch._run_folder import RunFolder

NUM_LAST_LINES = 6
RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?")  # torch puts it before every line of an uncaught error
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket Timeout",
    "Timed out waiting",
    "failed to recv",
)


def failure(
    exits: Sequence[Exit], *, folder: RunFolder, command: str = "", shown: int | None = None
) -> MeshwrightError:
    """The error behind workers that failed.

    One worker's death makes the others fail a moment later, because nobody answers them. The first in this order is
    taken: an error that a worker named itself, a killed one, any other that does not complain of a lost peer.

    Args:
        exits: the workers that ended with a code other than 0.
        folder: where they wrote.
        command: what to run next, where the error does not say.
        shown: the worker whose errors the user has seen already.
    """
    first = min(exits, key=lambda dead: (_rank_as_cause(dead, folder=folder), dead.rank))
    error = recorded_error(folder.error(first.rank))
    if error is not None:
        return type(error)(
            error.fact, cause=error.cause, alternatives=error.alternatives, command=error.command or command
        )
    log = folder.log(first.rank, "err")
    lines = last_lines(log)
    seen = f"; see above, or {log}" if first.rank == shown else f"; the last lines of {log}:{_indented(lines)}"
    return WorkerError(
        f"worker {first.rank} {_how(first.code, lines)}",
        cause=_why(first.code, lines) + (seen if lines else f"; {log} is empty"),
        alternatives=_alternatives(first.code),
        command=command or f"less {log}",
    )


def agent_failure(
    exits: Sequence[Exit], *, folder: RunFolder, command: str = "", shown: int | None = None
) -> MeshwrightError:
    """The error behind torch's agent ending with a code other than 0: its workers', or its own."""
    if folder.failures.is_file():
        dead = json.loads(folder.failures.read_text(encoding="utf-8"))
        workers = [Exit(rank=int(rank), code=code) for rank, code in dead.items()]
        return failure(workers, folder=folder, command=command, shown=shown)
    error = recorded_error(folder.agent_error)
    if error is not None:
        return error
    lines = last_lines(folder.agent_log("err"))
    return WorkerError(
        f"torch's agent {_how(exits[0].code, lines)}",
        cause=f"it starts and ends the workers; the last lines of {folder.agent_log('err')}:{_indented(lines)}",
        command=command or f"less {folder.agent_log('err')}",
    )


def recorded_error(path: Path) -> MeshwrightError | None:
    """The error that a worker left when it ended; None where it left none."""
    return from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def last_lines(path: Path, count: int = NUM_LAST_LINES) -> list[str]:
    """The last lines of a log that say something."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        lines = [RANK_PREFIX.sub("", line) for line in file.read().decode(errors="replace").splitlines()]
    return [line for line in lines if line.strip()][-count:]


def _rank_as_cause(dead: Exit, *, folder: RunFolder) -> int:
    error = recorded_error(folder.error(dead.rank))
    if error is not None:
        return 3 if isinstance(error, WorkerError) else 0
    if dead.code < 0:
        return 1
    lines = last_lines(folder.log(dead.rank, "err"))
    return 4 if any(phrase in line for line in lines for phrase in LOST_PEER) else 2


def _how(code: int, lines: Sequence[str]) -> str:
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}" + (f": {lines[-1].strip()}" if _is_traceback(lines) else "")


def _why(code: int, lines: Sequence[str]) -> str:
    if -code == signal.SIGKILL:
        return "something outside the run killed it; the operating system does so when memory runs out"
    if code < 0:
        return "it crashed in native code, or something outside the run killed it"
    if any(phrase in line for line in lines for phrase in LOST_PEER):
        return "another worker, perhaps on another host, was gone"
    if _is_traceback(lines):
        return "the script raised an error"
    return "the script, or a library that it uses, ended the process without an error"


def _alternatives(code: int) -> tuple[str, ...]:
    if -code == signal.SIGKILL:
        return ("leave memory for the rest of the machine: meshwright run --memory SIZE SCRIPT",)
    return ()


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"\n      {line}" for line in lines)


def _is_traceback(lines: Sequence[str]) -> bool:
    return any(line.startswith(("  File ", "Traceback ")) for line in lines)
