"""Which messages a worker sends and receives, and at which point of its work.

All messages of a step have an order: by the end of the action that makes them in a simulation of the schedule. Each
worker starts its sends and receives in that order, so that two workers never wait for each other crosswise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meshwright.cost import Action, Work, simulated
from meshwright.parallel.pipeline._stages import Stage, Value
from meshwright.units import Seconds

Direction = Literal["forward", "backward"]
_TIMES: dict[Work, Seconds] = {"forward": 1.0, "backward": 2.0, "input": 1.0, "weight": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A value that goes from one stage to another.

    Args:
        number: in the order of all messages of the step.
        direction: an activation forward, or its gradient backward.
        value: which.
        micro_batch: of which.
        source: the stage that sends it.
        target: the stage that takes it.
    """

    number: int
    direction: Direction
    value: Value
    micro_batch: int
    source: int
    target: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An action with its messages.

    Args:
        action: what is computed.
        expects: messages whose receiving begins before it.
        sends: messages that it makes.
    """

    action: Action
    expects: tuple[Message, ...]
    sends: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A worker's work of a step.

    Args:
        steps: in order.
        later: messages whose receiving begins at the end; the next step needs them.
        num_messages: of all workers.
    """

    steps: tuple[Step, ...]
    later: tuple[Message, ...]
    num_messages: int


def script_of(
    rank: int,
    lists: Sequence[Sequence[Action]],
    stages: Sequence[Sequence[Stage]] | Mapping[int, Sequence[Stage]],
    *,
    first_number: int = 0,
) -> Script:
    """A worker's work of a step with its messages.

    Args:
        rank: of the worker.
        lists: of all workers, of `cost.orders` or `cost.flowing_orders`.
        stages: of every micro-batch.
        first_number: of the messages; different from all that are under way.
    """
    numbers = range(1 + max((action.stage for actions in lists for action in actions), default=0))
    times: dict[tuple[Work, int], Seconds] = {
        (work, stage): duration for work, duration in _TIMES.items() for stage in numbers
    }
    events = sorted(simulated(lists, times), key=lambda event: (event.end, event.rank))
    messages: dict[Action, tuple[Message, ...]] = {}
    incoming: list[tuple[tuple[Seconds, int], Message]] = []
    count = 0
    for event in events:
        made = _made(event.action, stages[event.action.micro_batch], first_number=first_number + count)
        count += len(made)
        messages[event.action] = made
        incoming += [
            ((event.end, event.rank), message) for message in made if message.target % len(lists) == rank != event.rank
        ]
    found, taken = [], 0
    for event in events:
        if event.rank == rank:
            until = taken
            while until < len(incoming) and incoming[until][0] < (event.end, event.rank):
                until += 1
            expects = tuple(message for _, message in incoming[taken:until])
            taken = until
            found.append(Step(action=event.action, expects=expects, sends=messages[event.action]))
    later = tuple(message for _, message in incoming[taken:])
    return Script(steps=tuple(found), later=later, num_messages=count)


def _made(action: Action, stages: Sequence[Stage], *, first_number: int) -> tuple[Message, ...]:
    """What an action sends: what it hands on first, then what it made."""
    stage = stages[action.stage]
    found: list[tuple[Direction, Value, int]] = []
    if action.work == "forward":
        for value in (*stage.receives, *stage.makes):
            target = value.after(stage.index)
            if target is not None:
                found.append(("forward", value, target))
    elif action.work in ("backward", "input"):
        found = [("backward", value, value.before(stage.index)) for value in stage.receives if value.differentiable]
    return tuple(
        Message(
            number=first_number + place,
            direction=direction,
            value=value,
            micro_batch=action.micro_batch,
            source=stage.index,
            target=target,
        )
        for place, (direction, value, target) in enumerate(found)
    )
