"""Everything that can go wrong in a user's hands, drawn as one tree.

    MeshwrightError            exit code 1
    ├── UsageError             2   a wrong path, option, key or value
    │   └── DocumentError      2   a TOML or JSON file that does not say what it should
    ├── DoesNotFitError        3   no plan fits the memory there is
    ├── NotEqualError          4   the parallel program computed something else than the one-device program
    ├── HardwareError          5   hardware that cannot be measured, found or used
    ├── CaptureError           6   a model or step that cannot be captured
    │   └── ProgramError       6   a step that cannot be split, because it is not one fixed graph
    ├── PlanError              7   a plan that is not legal for this model, batch or hardware
    ├── BatchError             8   a batch that cannot be shared out
    ├── LossError              9   a loss that is not a finite scalar
    └── WorkerError            10  a worker that died, a port in use, a rendezvous that failed

Every error says the fact with its numbers, the cause, the legal alternatives, and the command to run next.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar


class MeshwrightError(Exception):
    """A failure that a user can act on.

    Args:
        fact: what happened, with its numbers.
        cause: why.
        alternatives: what would be legal or would work instead.
        command: what to run next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, fact: str, *, cause: str = "", alternatives: Sequence[str] = (), command: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.cause = cause
        self.alternatives = tuple(alternatives)
        self.command = command

    def __str__(self) -> str:
        lines = [self.fact]
        if self.cause:
            lines.append(f"  because: {self.cause}")
        lines.extend(f"  instead: {alternative}" for alternative in self.alternatives)
        if self.command:
            lines.append(f"  next:    {self.command}")
        return "\n".join(lines)


class UsageError(MeshwrightError):
    """A wrong path, option, key or value."""

    exit_code = 2


class DocumentError(UsageError):
    """A TOML or JSON file that does not say what it should."""


class DoesNotFitError(MeshwrightError):
    """No plan fits the memory there is; carries the itemised memory and the nearest changes that would fit."""

    exit_code = 3


class NotEqualError(MeshwrightError):
    """The parallel program computed something else than the one-device program."""

    exit_code = 4


class HardwareError(MeshwrightError):
    """Hardware that cannot be measured, found or used."""

    exit_code = 5


class CaptureError(MeshwrightError):
    """A model or a step that cannot be captured; names the construct that forced it."""

    exit_code = 6


class ProgramError(CaptureError):
    """A step that cannot be split over workers, as it is not one fixed graph; names the construct that forced it."""


class PlanError(MeshwrightError):
    """A plan that is not legal for this model, batch or hardware."""

    exit_code = 7


class BatchError(MeshwrightError):
    """A batch that cannot be shared out between the workers."""

    exit_code = 8


class LossError(MeshwrightError):
    """A loss that is not a finite scalar."""

    exit_code = 9


class WorkerError(MeshwrightError):
    """A worker that died, a port in use, a rendezvous that failed."""

    exit_code = 10


def to_json(error: MeshwrightError) -> str:
    """An error as one JSON object: how a worker hands its own to the process that started it."""
    return json.dumps(
        {
            "kind": type(error).__name__,
            "fact": error.fact,
            "cause": error.cause,
            "alternatives": error.alternatives,
            "command": error.command,
            "exit_code": error.exit_code,
        },
        ensure_ascii=False,
    )


def from_json(text: str) -> MeshwrightError:
    """The error that `to_json` wrote, of the class it had; of the tree's root where that class is not of the tree."""
    record = json.loads(text)
    kinds = {kind.__name__: kind for kind in (MeshwrightError, *_descendants(MeshwrightError))}
    return kinds.get(record["kind"], MeshwrightError)(
        record["fact"], cause=record["cause"], alternatives=record["alternatives"], command=record["command"]
    )


def _descendants(kind: type[MeshwrightError]) -> list[type[MeshwrightError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_descendants(child))]


def suggestion(wrong: str, legal: Sequence[str]) -> str:
    """The legal name nearest to a misspelt one, as a phrase to end a sentence with; empty where none is near."""
    near = get_close_matches(wrong, legal, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
