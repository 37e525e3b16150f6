"""When the phases of a step ended, read so that reading costs a step nothing.

On a processor a stamp is a time; on an accelerator it is an event recorded in its queue, read only when someone asks.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from meshwright.cost import TimeBreakdown
from meshwright.units import Seconds

BEGIN = ""
FORWARD = "forward"
BACKWARD = "backward"
COMMUNICATION = "communication"
OPTIMIZER = "optimizer"
OVERHEAD = "overhead"


class Clock(Protocol):
    """Takes stamps and tells the time between two."""

    def stamp(self) -> Any:
        """Now."""
        ...

    def seconds(self, begin: Any, end: Any) -> Seconds:
        """Time between two stamps (s)."""
        ...


class HostClock:
    """The processor's clock."""

    stamp = staticmethod(time.perf_counter)

    def seconds(self, begin: float, end: float) -> Seconds:
        """Time between two stamps (s)."""
        return end - begin


class DeviceClock:
    """Events in an accelerator's queue.

    Args:
        device: the accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stamp(self) -> torch.Event:
        """An event at the end of what has been queued so far."""
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.Event, end: torch.Event) -> Seconds:
        """Time between two events (s); waits for the later one."""
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def clock_for(device: torch.device) -> Clock:
    """The clock that times work on a device."""
    return HostClock() if device.type == "cpu" else DeviceClock(device)


@dataclass(slots=True)
class Stamps:
    """The phases of one step, in order of time.

    Args:
        marks: name of a phase and the stamp at its end; the first one is the begin of the step.
        communication: time that the exchange waited inside other phases and in its own (s).
        pieces: of forward and backward, where other workers are waited for between them: phase, begin and end.
    """

    marks: list[tuple[str, Any]] = field(default_factory=list)
    communication: Seconds = 0.0
    pieces: Sequence[tuple[str, Any, Any]] = ()

    def duration(self, clock: Clock) -> Seconds:
        """The whole step (s)."""
        return clock.seconds(self.marks[0][1], self.marks[-1][1])

    def breakdown(self, clock: Clock) -> TimeBreakdown:
        """Where the step's time went; what was waited for inside the update counts as communication."""
        spent: dict[str, float] = defaultdict(float)
        for (_, begin), (phase, end) in zip(self.marks, self.marks[1:], strict=False):
            spent[phase] += clock.seconds(begin, end)
        waiting = self._waiting(clock, spent)
        inside_update = min(max(0.0, self.communication - spent[COMMUNICATION]), spent[OPTIMIZER])
        return TimeBreakdown(
            forward=spent[FORWARD],
            backward=spent[BACKWARD],
            optimizer=spent[OPTIMIZER] - inside_update,
            communication=spent[COMMUNICATION] + inside_update,
            overhead=spent[OVERHEAD],
            waiting=waiting,
        )

    def _waiting(self, clock: Clock, spent: dict[str, float]) -> Seconds:
        """Takes what lies between the pieces out of forward and backward (s)."""
        if not self.pieces:
            return 0.0
        whole = spent[FORWARD] + spent[BACKWARD]
        spent[FORWARD] = spent[BACKWARD] = 0.0
        for phase, begin, end in self.pieces:
            spent[phase] += clock.seconds(begin, end)
        return max(0.0, whole - spent[FORWARD] - spent[BACKWARD])
