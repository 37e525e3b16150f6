"""The one line that says how far things are."""

import time

from rich.console import Console
from rich.text import Text

from meshwright.units import Seconds

ERASE = "\r\x1b[2K"


class StatusLine:
    """A line at the bottom of the terminal that is replaced; without a terminal, a plain line now and then.

    Args:
        console: where the line is shown.
        interval: least time between two plain lines (s).
    """

    def __init__(self, console: Console, *, interval: Seconds = 10.0) -> None:
        self._console = console
        self._interval = interval
        self._text = ""
        self._printed = ""
        self._printed_at = 0.0

    def announce(self, text: str) -> None:
        """Says what begins now."""
        self._text = text
        if self._console.is_terminal:
            self._draw()
        elif text != self._printed:
            self._print()

    def show(self, text: str) -> None:
        """Says how far it is; without a terminal only when the last line is old enough."""
        if text == self._text:
            return
        self._text = text
        if self._console.is_terminal:
            self._draw()
        elif time.monotonic() - self._printed_at >= self._interval:
            self._print()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.hide()
        self._console.print(text, soft_wrap=True, markup=False)
        self.restore()

    def hide(self) -> None:
        """Makes room for somebody else's output."""
        if self._console.is_terminal and self._text:
            self._console.file.write(ERASE)
            self._console.file.flush()

    def restore(self) -> None:
        """Shows the line again after that output."""
        if self._console.is_terminal and self._text:
            self._draw()

    def close(self) -> None:
        """Leaves the last state standing as a line of its own."""
        if self._console.is_terminal and self._text:
            self._console.file.write("\n")
            self._console.file.flush()
        elif self._text != self._printed:
            self._print()
        self._text = ""

    def _draw(self) -> None:
        self._console.file.write(ERASE)
        line = Text(self._text, style="dim", no_wrap=True, overflow="ellipsis")
        line.truncate(self._console.width - 1, overflow="ellipsis")
        self._console.print(line, end="")
        self._console.file.flush()

    def _print(self) -> None:
        self._console.print(Text(self._text), soft_wrap=True)
        self._printed, self._printed_at = self._text, time.monotonic()
