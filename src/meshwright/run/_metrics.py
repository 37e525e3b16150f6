"""What a run measures: a line per step, a sum at the end, and each worker's own record.

A step only appends its stamps; about ten times a second they are turned into lines and written.
"""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, TextIO

import torch

from meshwright.cost import Measurement, StepRecord, TimeBreakdown
from meshwright.documents import write_toml
from meshwright.errors import LossError, UsageError
from meshwright.run._clock import Clock, Stamps
from meshwright.run._drift import Drift, Forecast
from meshwright.run._memory import peak_memory
from meshwright.run._watch import check_finite
from meshwright.units import Bytes, Seconds

FLUSH_INTERVAL: Seconds = 0.1
REMEMBERED = 10_000
WARM_UP = 5
TIME_ITEMS = tuple(field.name for field in fields(TimeBreakdown))
RECORD_ITEMS = tuple(field.name for field in fields(StepRecord))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRecord:
    """What one worker did: `workers/rank-N.toml`.

    Args:
        rank: its number.
        status: `finished`, `interrupted` or `failed`.
        steps: steps done.
        step: median of a step, the first ones left out (s).
        memory: its peak (B).
        time: medians of where the time went.
        reason: what ended it, unless finished.
    """

    rank: int
    status: str
    steps: int
    step: Seconds
    memory: Bytes
    time: TimeBreakdown
    reason: str = ""


@dataclass(slots=True)
class _Pending:
    step: int
    loss: torch.Tensor | None
    stamps: Stamps
    examples: int
    grad_norm: float | torch.Tensor
    interval: Seconds
    elapsed: Seconds


class Recorder:
    """Collects the steps of one worker and writes them down.

    Args:
        folder: the run's; None keeps nothing on disk.
        clock: that the stamps were taken with.
        rank: of this worker; rank 0 writes the metrics.
        forecast: of the plan; None where there is none.
    """

    def __init__(self, folder: Path | None, *, clock: Clock, rank: int, forecast: Forecast | None = None) -> None:
        self._folder = folder
        self._clock = clock
        self._rank = rank
        self._drift = Drift(forecast)
        self._pending: list[_Pending] = []
        self._durations: deque[tuple[Seconds, TimeBreakdown]] = deque(maxlen=REMEMBERED)
        self._lines: list[str] = []
        self._begun = self._last = self._flushed = time.perf_counter()
        self.steps = 0
        self.memory: Bytes = 0
        self.told: list[str] = []
        self._file = None
        if folder is not None and rank == 0:
            self._file = _opened(folder / "metrics.jsonl")

    def begin(self) -> None:
        """The first step begins now."""
        self._begun = self._last = self._flushed = time.perf_counter()

    def add(self, loss: torch.Tensor | None, stamps: Stamps, *, examples: int, grad_norm: float | torch.Tensor) -> None:
        """Takes a step; writes when it is time to.

        Args:
            loss: global mean loss, still on its device; None: the script alone knows it.
            stamps: of the step.
            examples: of the global batch.
            grad_norm: of the whole gradient; 0 where it was not computed.
        """
        now = time.perf_counter()
        self.steps += 1
        self._pending.append(
            _Pending(self.steps, loss, stamps, examples, grad_norm, now - self._last, now - self._begun)
        )
        self._last = now
        if now - self._flushed >= FLUSH_INTERVAL or self.steps == 1:
            self.flush()
            self._flushed = now

    def flush(self) -> None:
        """Turns what was collected into lines.

        Raises:
            LossError: a loss is not finite.
        """
        self.memory = max(self.memory, peak_memory())
        pending, self._pending = self._pending, []
        for item in pending:
            self._resolve(item)
        if self._file is not None:
            self._file.write("".join(self._lines))
            self._file.flush()
        self._lines.clear()

    def note(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a line to a file of the run's folder, on rank 0.

        Args:
            name: of the file.
            record: what the line says.
        """
        if self._folder is not None and self._rank == 0:
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def close(self, status: str, *, reason: str = "", memory_by_rank: tuple[Bytes, ...] = ()) -> None:
        """Writes the rest, this worker's record, and on rank 0 the sum.

        Args:
            status: `finished`, `interrupted` or `failed`.
            reason: what ended it, unless finished.
            memory_by_rank: peak of each worker, where all could be asked (B).

        Raises:
            LossError: one of the last losses, on an accelerator, is not finite; all is written by then.
        """
        failure: LossError | None = None
        try:
            self.flush()
        except LossError as error:
            failure, status, reason = error, "failed", error.fact
            self.flush()
        if self._file is not None:
            self._file.close()
        if self._folder is not None:
            self._write_sum(self._folder, status, reason=reason, memory_by_rank=memory_by_rank)
        if failure is not None:
            raise failure

    def _write_sum(self, folder: Path, status: str, *, reason: str, memory_by_rank: tuple[Bytes, ...]) -> None:
        step, low, high, breakdown = self._sum()
        own = WorkerRecord(
            rank=self._rank,
            status=status,
            steps=self.steps,
            step=step,
            memory=self.memory,
            time=breakdown,
            reason=reason,
        )
        write_toml(own, folder / "workers" / f"rank-{self._rank}.toml")
        if self._rank == 0:
            measurement = Measurement(
                status=status,
                steps=self.steps,
                step=step,
                low=low,
                high=high,
                time=breakdown,
                memory=max((self.memory, *memory_by_rank)),
                memory_by_rank=memory_by_rank or (self.memory,),
                reason=reason,
            )
            write_toml(measurement, folder / "measurement.toml")

    def _resolve(self, item: _Pending) -> None:
        loss = math.nan if item.loss is None else item.loss.item()
        duration = item.stamps.duration(self._clock)
        breakdown = item.stamps.breakdown(self._clock)
        self._durations.append((duration, breakdown))
        if self._file is not None:
            record = StepRecord(
                step=item.step,
                loss=loss,
                duration=duration,
                samples_per_second=item.examples / item.interval if item.interval else 0.0,
                grad_norm=float(item.grad_norm),
                memory=self.memory,
                elapsed=item.elapsed,
                time=breakdown,
            )
            self._lines.append(_line(record))
        if item.loss is not None:
            check_finite(loss, item.step)
        told = self._drift.add(duration, item.step, breakdown)
        if told:
            self.told.append(told)

    def _sum(self) -> tuple[Seconds, Seconds, Seconds, TimeBreakdown]:
        kept = list(self._durations)[min(WARM_UP, len(self._durations) // 2) :]
        if not kept:
            return 0.0, 0.0, 0.0, TimeBreakdown()
        ordered = sorted(duration for duration, _ in kept)
        items: dict[str, Any] = {name: median(getattr(breakdown, name) for _, breakdown in kept) for name in TIME_ITEMS}
        low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
        return median(ordered), low, high, TimeBreakdown(**items)


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            cause="the folder is read-only, full, or is no folder",
            alternatives=["give another place with --output FOLDER"],
        ) from None


def _line(record: StepRecord) -> str:
    """A record as JSON; `dataclasses.asdict` copies every value and takes five times as long."""
    values = {name: getattr(record, name) for name in RECORD_ITEMS}
    values["loss"] = None if math.isnan(record.loss) else record.loss
    values["time"] = {name: getattr(record.time, name) for name in TIME_ITEMS}
    return json.dumps(values) + "\n"
