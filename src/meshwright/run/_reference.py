"""The one-device program: the same steps on a copy of the job, on rank 0, and what they gave."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meshwright.errors import LossError
from meshwright.run._distance import norm, whole_norm
from meshwright.run._engine import Engine
from meshwright.run._job import Job
from meshwright.run._quiet import draws_noticed, random_operations_off

Hyperparameters = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceStep:
    """One step of the one-device program.

    Args:
        loss: the mean over the batch.
        gradients: before clipping, by parameter.
        hyperparameters: of the user's optimizer, which schedulers change between steps.
    """

    loss: float
    gradients: dict[str, Tensor | None]
    hyperparameters: Hyperparameters


class Reference:
    """The one-device program.

    Args:
        job: a copy of the user's, worked on in place.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._engine = Engine(job)
        self.begin = self._engine.placed.full_parameters()
        self.steps: list[ReferenceStep] = []
        self.is_random = False
        self.is_still_random = False

    def step(self, batch: Any, hyperparameters: Hyperparameters) -> Tensor:
        """Runs a step; returns the loss.

        Raises:
            LossError: no gradient reached the copy.
        """
        if not self.steps:
            self.is_random = self._draws(batch)
        engine = self._engine
        set_hyperparameters(self._job.optimizer, hyperparameters)
        with ExitStack() as stack:
            if self.is_random:
                stack.enter_context(random_operations_off(self._job.model))
                answer = stack.enter_context(draws_noticed(engine.device))
            else:
                answer = stack.enter_context(nullcontext([False]))
            engine.begin()
            loss = engine.compute(engine.share(batch))
        self.is_still_random |= answer[0]
        gradients = engine.placed.full_gradients()
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients.values()):
            raise LossError(
                "the one-device program has no gradient",
                cause="loss(model, batch) uses a model from outside instead of the one that it is given, or every "
                "gradient is zero",
                alternatives=["use the argument: lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])"],
            )
        self.steps.append(ReferenceStep(loss=loss.item(), gradients=gradients, hyperparameters=hyperparameters))
        engine.update()
        return loss

    def parameters(self) -> dict[str, Tensor]:
        """Copies of the parameters as they are now."""
        return self._engine.placed.full_parameters()

    def without_gradient(self, part: float) -> list[str]:
        """Names of the parameters that had a gradient in some step, but never more than this part of the whole."""
        largest: dict[str, float] = {}
        for step in self.steps:
            whole = whole_norm(step.gradients)
            for name, gradient in step.gradients.items():
                if gradient is not None:
                    largest[name] = max(largest.get(name, 0.0), norm(gradient) / whole)
        return [name for name, value in largest.items() if 0 < value <= part]

    def _draws(self, batch: Any) -> bool:
        """Whether a forward draws random numbers; leaves random numbers and buffers as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in self._job.model.buffers()]
        device = self._engine.device
        devices = [] if device.type == "cpu" else [device]
        kind = "cuda" if device.type == "cpu" else device.type
        with torch.no_grad(), torch.random.fork_rng(devices, device_type=kind), draws_noticed(device) as answer:
            self._job.loss(self._job.model, batch)
        for buffer, before in buffers:
            buffer.copy_(before)
        return answer[0]


def hyperparameters_of(optimizer: torch.optim.Optimizer) -> Hyperparameters:
    """The numbers of every parameter group: learning rate, momentum, …"""
    return [
        {
            name: value
            for name, value in group.items()
            if name != "params" and value is not None and not isinstance(value, bool)
        }
        for group in optimizer.param_groups
    ]


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: Hyperparameters) -> None:
    """Puts the numbers back."""
    for group, numbers in zip(optimizer.param_groups, values, strict=True):
        group.update(numbers)
