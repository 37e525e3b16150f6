"""What every way to run a training step on several workers offers to the step engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Action
from meshwright.parallel._pieces import Piece, Span
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Held:
    """What a worker holds of a parameter.

    Args:
        name: the user's first name of it.
        parameter: the object that the optimizer has, and the gradient.
        spans: splits that lead from the whole parameter to this worker's part; none: it has the whole.
        keeps_gradient: whether this worker has the gradient of that part after `reduce`, where there is one.
    """

    name: str
    parameter: Tensor
    spans: tuple[Span, ...] = ()
    keeps_gradient: bool = True


class Parallelized(ABC):
    """A model and its optimizer, made parallel; one on every worker, all called alike.

    One step:

        job.zero_gradients()
        for number, (share, weight) in enumerate(micro_batches):
            with job.micro_batch(last=number == len(micro_batches) - 1):
                (loss(job.model, share) * weight).backward()
        job.reduce(total_weight)
        norm = job.clip(1.0)
        job.update()

    A worker without examples in a step leaves the loop out, unless `forwards_together`: then every worker has to run
    forward and backward equally often, if need be on an empty batch.

    Attributes:
        optimizer: the user's; None where nothing is updated, or where the user's own loop does.
    """

    optimizer: Optimizer | None

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What the loss function is given: the user's own object."""

    @property
    @abstractmethod
    def forwards_together(self) -> bool:
        """Whether forward and backward exchange tensors, so that no worker may leave them out."""

    @property
    @abstractmethod
    def communication_seconds(self) -> Seconds:
        """Time that the last step waited for other workers in `reduce`, `clip` and `update` (s)."""

    @abstractmethod
    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Surrounds forward and backward of one micro-batch; the last one of a step sends gradients meanwhile."""

    @abstractmethod
    def reduce(self, divisor: float) -> None:
        """Makes every gradient the sum over all workers and micro-batches, divided.

        A parameter without gradient on every worker keeps `grad` None; where only some have one, the others count
        as zero. With sharded gradients a worker has those that it owns.

        Args:
            divisor: number or weight of the global batch's examples; 1 costs nothing.
        """

    @abstractmethod
    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients down to a global norm where it is exceeded, as `torch.nn.utils.clip_grad_norm_` does.

        Returns:
            The norm before, over all parameters, the same on every worker; a tensor, so that no GPU is waited for.
        """

    @abstractmethod
    def stepping(self) -> AbstractContextManager[object]:
        """Surrounds the optimizer's step: what this worker does not update is hidden, what others did comes after."""

    def update(self) -> None:
        """Steps the user's optimizer, and gives every worker the parameters that others have updated."""
        with self.stepping():
            if self.optimizer is not None:
                self.optimizer.step()

    @abstractmethod
    def zero_gradients(self) -> None:
        """Forgets all gradients."""

    @abstractmethod
    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients, whole, by the user's parameter names; every worker calls it and gets all."""

    @abstractmethod
    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters, whole, by the user's parameter names; every worker calls it and gets all."""

    @abstractmethod
    def full_state_dict(self) -> dict[str, Tensor]:
        """Copies of the model's `state_dict`, whole, with the user's keys; every worker calls it and gets all."""

    @abstractmethod
    def held(self) -> list[Held]:
        """This worker's part of every parameter that it has any of, in the order of the model."""

    @abstractmethod
    def held_state(self) -> list[Piece]:
        """This worker's part of the tensors in the model's `state_dict`, by the user's keys."""

    @abstractmethod
    def close(self) -> None:
        """Takes hooks and wrappers off again and frees buffers; the gradients are gone. Sharded parameters stay so."""


# Takes what the loss function gave for a micro-batch, and its number; returns what its backward starts from.
Begin = Callable[[Any, int], Tensor]


class SplitModel(Parallelized):
    """A model of which each worker computes a part: as a captured program, not through the user's call.

    One step:

        job.zero_gradients()
        job.prepare(micro_batches)
        job.compute(micro_batches, examples=examples, begin=begin, ended=ended)
        job.reduce(total_weight)
        norm = job.clip(1.0)
        job.update()
    """

    @property
    @abstractmethod
    def counts(self) -> bool:
        """Whether this worker's losses count in a sum over all workers; of those that have the same, one does."""

    @property
    @abstractmethod
    def pipeline_stamps(self) -> list[tuple[Action, Any, Any]]:
        """What this worker did in the last step for its stages, with stamps as the step's own at begin and end."""

    @abstractmethod
    def whole_model(self) -> nn.Module:
        """A copy of the model on whole tensors; every worker calls it and gets one."""

    @abstractmethod
    def prepare(self, batches: Sequence[Any]) -> None:
        """Makes the program for each micro-batch, where it has another shape than those before.

        Every worker calls it in every step, also with stand-ins for examples that it does not have. The first call
        leaves this worker's part of the parameters only.

        Raises:
            ProgramError: the step is not one fixed graph.
            PlanError: the strategy does not suit the model.
        """

    @abstractmethod
    def compute(
        self, batches: Sequence[Any], *, examples: Sequence[int], begin: Begin, ended: Callable[[], object]
    ) -> None:
        """Forward and backward of all micro-batches of the step.

        Args:
            batches: in the user's structure.
            examples: how many of each count; 0 for a stand-in that only joins the exchanges.
            begin: called on workers that have the loss of a micro-batch.
            ended: called after each backward.
        """
