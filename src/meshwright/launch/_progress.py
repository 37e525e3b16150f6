"""What a person sees while the workers run: the script's own output, and one line of progress."""

import json
import sys
from collections.abc import Mapping, Sequence
from statistics import harmonic_mean
from typing import Any, BinaryIO, TextIO

from rich.console import Console

from meshwright.launch._log_tail import LineTail, LogTail
from meshwright.launch._run_folder import RunFolder
from meshwright.launch._status import StatusLine
from meshwright.units import format_bytes, format_seconds

NUM_AVERAGED = 20


class Progress:
    """Follows a run's folder: rank 0's output goes on untouched, its steps become the status line.

    Args:
        script_output: where the script's output goes.
        errors: where its errors and the status line go.
    """

    def __init__(self, *, script_output: TextIO | None = None, errors: TextIO | None = None) -> None:
        self._errors = errors or sys.stderr
        self._script_output = script_output or sys.stdout
        self.status = StatusLine(Console(file=self._errors, highlight=False))
        self.rank: int | None = None
        self._streams: list[tuple[LogTail, BinaryIO]] = []
        self._metrics: LineTail | None = None
        self._recent: list[Mapping[str, Any]] = []
        self._num_steps = 0
        self._line_is_open = False

    def follow(self, folder: RunFolder, *, rank: int = 0, num_steps: int = 0) -> None:
        """Starts to show a run.

        Args:
            folder: the run's.
            rank: whose output is shown.
            num_steps: steps the run will take; 0 where unknown.
        """
        self.rank = rank
        self._streams = [
            (LogTail(folder.log(rank, "out")), self._script_output.buffer),
            (LogTail(folder.log(rank, "err")), self._errors.buffer),
        ]
        self._metrics = LineTail(folder.metrics)
        self._recent = []
        self._num_steps = num_steps

    def refresh(self) -> None:
        """Shows what is new."""
        self._copy_output()
        lines = self._metrics.read() if self._metrics is not None else []
        if lines and not self._line_is_open:
            self._recent += [json.loads(line) for line in lines[-NUM_AVERAGED:]]
            del self._recent[:-NUM_AVERAGED]
            self.status.show(progress_text(self._recent, num_steps=self._num_steps))

    def close(self) -> None:
        """Shows the rest and leaves the last line standing."""
        self.refresh()
        self.status.close()
        for tail, _ in self._streams:
            tail.close()
        if self._metrics is not None:
            self._metrics.close()
        self._streams, self._metrics = [], None

    def _copy_output(self) -> None:
        pending = [(tail.read(), stream) for tail, stream in self._streams]
        if not any(data for data, _ in pending):
            return
        if not self._line_is_open:
            self.status.hide()
        for data, stream in pending:
            if data:
                stream.write(data)
                stream.flush()
                self._line_is_open = not data.endswith((b"\n", b"\r"))
        if not self._line_is_open:
            self.status.restore()


def progress_text(recent: Sequence[Mapping[str, Any]], *, num_steps: int = 0) -> str:
    """The newest steps as the line of progress.

    Throughput is examples over time, the harmonic mean of the steps' rates: a pause for data counts as long as it was.

    Args:
        recent: `StepRecord`s as read from `metrics.jsonl`.
        num_steps: steps the run was said to take; 0 where unknown. A script that goes on after them is shown without.
    """
    record = recent[-1]
    step, loss = record["step"], record.get("loss")
    num_steps = num_steps if step <= num_steps else 0
    rates = [record["samples_per_second"] for record in recent if record["samples_per_second"] > 0]
    throughput = harmonic_mean(rates) if rates else 0.0
    parts = [f"step {step}/{num_steps}" if num_steps else f"step {step}"]
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    parts.append(f"{throughput:,.{0 if throughput >= 100 else 1}f} samples/s")
    if record.get("memory"):
        parts.append(format_bytes(record["memory"]))
    if num_steps > step:
        parts.append(f"{format_seconds(record['elapsed'] / step * (num_steps - step))} left")
    return " · ".join(parts)
