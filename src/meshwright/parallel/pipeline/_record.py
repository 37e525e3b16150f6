"""When a worker did what in one step, kept as stamps that are read only when someone asks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from meshwright.cost import Action, StageEvent


class Record:
    """The actions of one step on one worker.

    Args:
        device: where they ran; on an accelerator a stamp is an event in its queue.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stamps: list[tuple[Action, Any, Any]] = []
        self._begin: Any = None
        self.began = 0.0

    def begin(self) -> None:
        """A step begins: what is known of the one before is forgotten."""
        self._stamps = []
        self.began = time.time()
        self._begin = self._stamp()

    @contextmanager
    def of(self, action: Action) -> Iterator[None]:
        """Surrounds an action."""
        start = self._stamp()
        yield
        self._stamps.append((action, start, self._stamp()))

    @property
    def stamps(self) -> list[tuple[Action, Any, Any]]:
        """What was done, with the stamps at its beginning and its end."""
        return self._stamps

    def events(self, rank: int) -> tuple[StageEvent, ...]:
        """What was done, in seconds from the step's beginning; waits for an accelerator."""
        return tuple(
            StageEvent(rank=rank, action=action, start=self._seconds(start), end=self._seconds(end))
            for action, start, end in self._stamps
        )

    def _stamp(self) -> Any:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    def _seconds(self, stamp: Any) -> float:
        if isinstance(stamp, float):
            return stamp - self._begin
        stamp.synchronize()
        return self._begin.elapsed_time(stamp) / 1e3
