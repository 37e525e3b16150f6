"""One worker's part of a step: its list of actions, one after another.

The lists are those of torch's schedules (`torch.distributed.pipelining`), and a test holds them equal; what runs them
is our own, because torch's runtime takes micro-batches of equal shape only, in multiples of the stages, carries
values to the next stage and no farther, gives every stage its inputs through the first one, joins the last stage's
outputs, keeps what a stage sent until its backward, and halves backwards by walking the autograd graph.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from meshwright.cost import Action
from meshwright.parallel.pipeline._later import WeightGradients
from meshwright.parallel.pipeline._links import Arrival, Links
from meshwright.parallel.pipeline._messages import Message, Step
from meshwright.parallel.pipeline._record import Record
from meshwright.parallel.pipeline._stages import Stage, Value

# Gives what the backward starts from, of the loss function's output and the micro-batch's number.
Begin = Callable[[Any, int], Tensor]
# Runs a stage on the tensors of a micro-batch and what it receives.
Forward = Callable[[Stage, Sequence[Tensor], Sequence[Tensor]], Any]


def call(stage: Stage, tensors: Sequence[Tensor], received: Sequence[Tensor]) -> Any:
    """Runs a stage on its own parameters."""
    return stage(tensors, received)


@dataclass(kw_only=True, slots=True)
class Flight:
    """What a micro-batch leaves on a stage between forward and backward.

    Args:
        received: leaves of autograd, by name.
        edges: where the backward of each made activation starts, by name.
        loss: what the backward starts from on the last stage.
    """

    received: dict[str, Tensor]
    edges: dict[str, GradientEdge]
    loss: Tensor | None


@dataclass(kw_only=True, slots=True)
class Pending:
    """What is under way on a worker; a step may leave some of it to the next one.

    Args:
        inbox: what has come, or will, by direction, value, micro-batch and stage.
        flights: forwards without backward, by micro-batch and stage.
        forward: runs a stage.
    """

    inbox: dict[tuple[str, str, int, int], Arrival] = field(default_factory=dict)
    flights: dict[tuple[int, int], Flight] = field(default_factory=dict)
    forward: Forward = call

    def renumber(self, num_micro_batches: int) -> None:
        """Counts from the next step's first micro-batch."""
        self.inbox = {(*key[:2], key[2] - num_micro_batches, key[3]): item for key, item in self.inbox.items()}
        self.flights = {(number - num_micro_batches, stage): item for (number, stage), item in self.flights.items()}


@dataclass(kw_only=True, slots=True)
class Surroundings:
    """What the caller puts around pieces of work.

    Args:
        forward: makes what surrounds a forward, such as autocast.
        backward: makes what surrounds a backward; told whether it is this worker's last of the step.
        ended: called after each backward.
    """

    forward: Callable[[], AbstractContextManager[Any]] = nullcontext
    backward: Callable[[bool], AbstractContextManager[Any]] = field(default=lambda _last: nullcontext())
    ended: Callable[[], object] = field(default=lambda: None)


class Executor:
    """Runs a worker's actions of one step.

    Args:
        steps: the worker's actions with their messages.
        stages: by micro-batch and number; those of other workers are not run.
        tensors: the tensors of every micro-batch that is forwarded.
        links: to the other workers.
        waiting: where weight gradients are put off.
        record: of when what was done.
        pending: what earlier steps have left, and what runs a stage.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        stages: Sequence[Sequence[Stage]] | Mapping[int, Sequence[Stage]],
        tensors: Sequence[Sequence[Tensor]],
        links: Links,
        waiting: WeightGradients,
        record: Record,
        pending: Pending,
    ) -> None:
        self._steps = steps
        self._stages = stages
        self._tensors = tensors
        self._links = links
        self._waiting = waiting
        self._record = record
        self._pending = pending
        self._late: dict[tuple[int, int], list[Callable[[], None]]] = {}
        self._expected = 0

    def run(self, begin: Begin, around: Surroundings) -> None:
        """Does everything in order; leaves the gradients in the parameters.

        Raises:
            WorkerError: another worker has ended, or does not answer.
        """
        last = max((place for place, step in enumerate(self._steps) if step.action.work != "forward"), default=-1)
        for place, step in enumerate(self._steps):
            self._expect_until(place + self._links.ahead)
            action = step.action
            if action.work == "forward":
                self._forward(step, begin, around)
                continue
            with around.backward(place == last):
                if action.work == "weight":
                    self._weights(action)
                else:
                    self._backward(step)
            if action.work != "input":
                around.ended()

    def expect(self, messages: Sequence[Message]) -> None:
        """Begins to receive messages."""
        for message in messages:
            self._pending.inbox[_key(message)] = self._links.receive(
                message.value, source=message.source % self._links.size, number=message.number
            )

    def _expect_until(self, place: int) -> None:
        """Begins to receive what belongs to the actions up to one."""
        for step in self._steps[self._expected : place + 1]:
            self.expect(step.expects)
        self._expected = max(self._expected, place + 1)

    def end(self) -> None:
        """Waits until everything is sent; nothing may be left to do."""
        self._links.finish()
        assert not self._pending.inbox and not self._pending.flights and not self._late  # noqa: PT018

    def _forward(self, step: Step, begin: Begin, around: Surroundings) -> None:
        action = step.action
        stage = self._stages[action.micro_batch][action.stage]
        received = {value.name: self._take("forward", value, action).wait() for value in stage.receives}
        outgoing = {message.value.name: message for message in step.sends}
        for name, tensor in received.items():
            if name in outgoing:
                self._hand_over(tensor, outgoing[name])
        for value in stage.receives:
            if value.differentiable:
                received[value.name].requires_grad_()
        with self._record.of(action), around.forward():
            outputs = self._pending.forward(stage, self._tensors[action.micro_batch], list(received.values()))
            loss = begin(outputs, action.micro_batch) if stage.is_last else None
        edges = {}
        for value, tensor in zip(stage.makes, () if stage.is_last else outputs, strict=True):
            self._hand_over(tensor, outgoing[value.name])
            if tensor.requires_grad:
                assert value.differentiable, value
                edges[value.name] = get_gradient_edge(tensor)
        self._pending.flights[action.micro_batch, action.stage] = Flight(received=received, edges=edges, loss=loss)

    def _backward(self, step: Step) -> None:
        action = step.action
        stage = self._stages[action.micro_batch][action.stage]
        flight = self._pending.flights.pop((action.micro_batch, action.stage))
        differentiable = [value for value in stage.makes if value.differentiable]
        arrived = {value.name: self._take("backward", value, action).wait() for value in differentiable}
        if action.work == "input":
            self._late[action.micro_batch, action.stage] = self._waiting.collect()
        with self._record.of(action):
            if flight.loss is not None:
                flight.loss.backward()
            elif flight.edges:
                torch.autograd.backward(list(flight.edges.values()), [arrived[name] for name in flight.edges])
        self._waiting.stop()
        for message in step.sends:
            self._hand_over(self._gradient(flight, message.value, action), message)

    def _gradient(self, flight: Flight, value: Value, action: Action) -> Tensor:
        """Of a received activation: what this stage and the readers after it found, zero where nobody did."""
        leaf = flight.received.pop(value.name)
        gradient, leaf.grad = leaf.grad, None
        if value.after(action.stage) is not None:
            later = self._take("backward", value, action).wait()
            gradient = later if gradient is None else gradient.add_(later)
        return torch.zeros_like(leaf) if gradient is None else gradient

    def _weights(self, action: Action) -> None:
        with self._record.of(action):
            for compute in self._late.pop((action.micro_batch, action.stage)):
                compute()

    def _take(self, direction: str, value: Value, action: Action) -> Arrival:
        return self._pending.inbox.pop((direction, value.name, action.micro_batch, action.stage))

    def _hand_over(self, tensor: Tensor, message: Message) -> None:
        target = message.target % self._links.size
        if target == self._links.rank:
            self._pending.inbox[_key(message)] = self._links.here(tensor)
        else:
            self._links.send(tensor, message.value, to=target, number=message.number)


def _key(message: Message) -> tuple[str, str, int, int]:
    return message.direction, message.value.name, message.micro_batch, message.target
