"""Which construct of a user's program a fake step stumbles over, and what was done about it."""

import os
import textwrap
import traceback
from dataclasses import dataclass

import torch

_LIBRARIES = (os.path.dirname(torch.__file__), os.path.dirname(__file__))


@dataclass(frozen=True, kw_only=True, slots=True)
class Construct:
    """A place in the user's program.

    Args:
        place: file and line.
        code: the line.
        operation: what it asked for.
    """

    place: str
    code: str
    operation: str

    def __str__(self) -> str:
        return f"{self.place}: {self.code!r} ({self.operation})" if self.code else f"{self.place} ({self.operation})"


def construct_behind(error: BaseException) -> Construct:
    """The innermost line outside of torch and of Meshwright that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES) and "<" not in frame.filename]
    frame = users[-1] if users else frames[-1]
    return Construct(
        place=relative_place(frame.filename, frame.lineno),
        code=textwrap.shorten(frame.line or "", 100, placeholder=" …"),
        operation=_operation(error),
    )


def relative_place(filename: str, line: int | str | None) -> str:
    """File and line, as short as they can be told from here."""
    return f"{os.path.relpath(filename) if _near(filename) else filename}:{line}"


def is_own_fault(error: BaseException) -> bool:
    """Whether an error was raised by a line of the capture itself, not by what it ran."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_LIBRARIES[1])


def needs_values(error: BaseException) -> bool:
    """Whether a fake step failed for want of values that a real one has."""
    return any(
        "DataDependent" in kind.__name__ or "DynamicOutputShape" in kind.__name__ for kind in type(error).__mro__
    )


def _operation(error: BaseException) -> str:
    func = getattr(error, "func", None)
    if func is not None:
        name = str(func).removesuffix(".default")
        return (
            "reads the value of a tensor"
            if "_local_scalar_dense" in name
            else f"{name}, whose result has a size that depends on values"
        )
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return "decides by the value of a tensor"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _near(filename: str) -> bool:
    return os.path.abspath(filename).startswith(os.getcwd() + os.sep)
