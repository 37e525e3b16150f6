"""Ctrl-C and SIGTERM: the first asks the workers to end, the second ends them."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

INTERRUPTED_EXIT_CODE = 130


class Interrupts:
    """Counts requests to stop inside the `with` block, instead of dying of them."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
