"""When a worker of a pipeline begins to receive."""

import types
from typing import Any, cast

import pytest
import torch

from meshwright.cost import Action
from meshwright.parallel.pipeline._executor import Executor, Pending, Surroundings
from meshwright.parallel.pipeline._group_links import GroupLinks
from meshwright.parallel.pipeline._later import WeightGradients
from meshwright.parallel.pipeline._links import Links
from meshwright.parallel.pipeline._messages import Message, Step
from meshwright.parallel.pipeline._record import Record


class NotedLinks:
    """Notes what is received and what is computed, in order."""

    size = 2

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.noted: list[str] = []

    def receive(self, value: Any, *, source: int, number: int) -> None:
        del value, source
        self.noted.append(f"receive {number}")


def step_of(number: int) -> Step:
    value: Any = types.SimpleNamespace(name=f"value {number}")
    message = Message(number=number, direction="forward", value=value, micro_batch=number, source=0, target=1)
    return Step(action=Action(work="weight", stage=1, micro_batch=number), expects=(message,), sends=())


@pytest.mark.parametrize(
    ("ahead", "noted"),
    [
        (0, ["receive 0", "compute 0", "receive 1", "compute 1", "receive 2", "compute 2"]),
        (1, ["receive 0", "receive 1", "compute 0", "receive 2", "compute 1", "compute 2"]),
    ],
)
def test_every_message_is_asked_for_once_and_as_early_as_the_links_allow(ahead: int, noted: list[str]) -> None:
    links = NotedLinks(ahead)
    executor = Executor(
        [step_of(number) for number in range(3)],
        stages=(),
        tensors=(),
        links=cast(Links, links),
        waiting=WeightGradients(),
        record=Record(torch.device("cpu")),
        pending=Pending(),
    )
    for number in range(3):
        executor._late[number, 1] = [lambda number=number: links.noted.append(f"compute {number}")]
    executor.run(lambda _output, _number: torch.zeros(()), Surroundings())
    assert links.noted == noted


def test_only_a_carrier_that_finds_messages_by_number_is_asked_early() -> None:
    assert GroupLinks(None, torch.device("cpu")).ahead == 0
