"""What every way to run a training step on several workers offers to the step engine."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from torch import Tensor, nn

from meshwright.units import Seconds


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
    """

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
    def update(self) -> None:
        """Steps the user's optimizer, and gives every worker the parameters that others have updated."""

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
    def close(self) -> None:
        """Takes hooks and wrappers off again and frees buffers; the gradients are gone. Sharded parameters stay so."""
