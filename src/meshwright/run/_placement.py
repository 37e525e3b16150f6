"""A job put where its strategy wants it: kernels, precision, and the parallel form of model and optimizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Action, Precision, Strategy
from meshwright.errors import PlanError
from meshwright.run._job import Job
from meshwright.run._sole import SoleWorker
from meshwright.units import Seconds

if TYPE_CHECKING:
    from meshwright.parallel import Held, Piece

_NOTHING = nullcontext()


class Placed(Protocol):
    """A model and its optimizer, ready to be stepped by one worker of a strategy."""

    @property
    def communication_seconds(self) -> Seconds:
        """Time that the last step waited for other workers (s)."""
        ...

    @property
    def forwards_together(self) -> bool:
        """Whether forward and backward exchange tensors, so that a worker without examples has to run them too."""
        ...

    @property
    def model(self) -> nn.Module:
        """What the loss function is given."""
        ...

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward of a micro-batch; gradients are exchanged in the last."""
        ...

    def reduce(self, divisor: float) -> None:
        """Ends the exchange: gradients are the sum over workers and micro-batches, divided."""
        ...

    def clip(self, max_norm: float) -> float | Tensor:
        """Scales the whole gradient down to a norm; returns the norm before."""
        ...

    def update(self) -> None:
        """The user's optimizer step."""
        ...

    def zero_gradients(self) -> None:
        """Forgets the gradients."""
        ...

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of the whole gradients by name."""
        ...

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of the whole parameters by name."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """The model's whole state."""
        ...

    def held(self) -> "list[Held]":
        """This worker's part of every parameter that it has any of."""
        ...

    def held_state(self) -> "list[Piece]":
        """This worker's part of the model's state."""
        ...

    def close(self) -> None:
        """Undoes what can be undone."""
        ...


@runtime_checkable
class SplitPlaced(Placed, Protocol):
    """A placed job of which this worker computes a part."""

    @property
    def counts(self) -> bool:
        """Whether this worker's losses count in the sum over all workers."""
        ...

    @property
    def pipeline_stamps(self) -> list[tuple[Action, Any, Any]]:
        """What this worker did in the last step for its stages, with stamps at begin and end."""
        ...

    def whole_model(self) -> nn.Module:
        """A copy of the model on whole tensors; every worker calls it."""
        ...

    def prepare(self, batches: Sequence[Any]) -> None:
        """Makes the program for micro-batches of new shapes."""
        ...

    def compute(
        self,
        batches: Sequence[Any],
        *,
        examples: Sequence[int],
        begin: Callable[[Any, int], Tensor],
        ended: Callable[[], object],
    ) -> None:
        """Forward and backward of all micro-batches."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A placed job whose exchange goes on from something in a checkpoint."""

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """What was left out, or agreed on, summed over the workers, by kind and parameter."""
        ...

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `carried` gave."""
        ...


@runtime_checkable
class Carrying(Remembering, Protocol):
    """A placed job whose exchange leaves something out, to be sent later."""

    def exactly(self) -> AbstractContextManager[object]:
        """Inside of it nothing is left out."""
        ...

    def refine(self) -> bool:
        """Leaves less out from the next step on; False where it cannot."""
        ...


@runtime_checkable
class Drifting(Protocol):
    """A placed job whose steps leave something for later: meetings of islands, or gradients that come late."""

    def settle(self) -> None:
        """Does what is left; every worker calls it after the same step."""
        ...

    def in_step(self) -> AbstractContextManager[object]:
        """Inside of it every step is exact."""
        ...

    def draw_nearer(self) -> str:
        """Leaves less for later from now on; what was changed, or nothing where nothing can be."""
        ...

    def averaged(self, value: float) -> float:
        """A loss of those that agree in every step, averaged over all."""
        ...


@runtime_checkable
class Parting(Drifting, Protocol):
    """One of which workers train apart, so that each has a loss of its own."""

    def alone(self) -> AbstractContextManager[object]:
        """Inside of it nobody meets; `settle` makes up for it."""
        ...


@runtime_checkable
class Unwaiting(Parting, Protocol):
    """One of which workers wait for nobody, so that they have to be called together."""

    @property
    def roams(self) -> bool:
        """Whether they still do."""
        ...

    def call(self) -> None:
        """Calls all workers together; one worker does that."""
        ...

    def is_called(self) -> bool:
        """Whether this worker is called."""
        ...

    def come(self) -> bool:
        """Waits for the others; whether all have come."""
        ...

    def undone(self) -> AbstractContextManager[None]:
        """Inside of it steps leave no trace in what is exchanged."""
        ...


def emptied(placed: Placed) -> AbstractContextManager[object]:
    """Inside of it a pipeline that is not emptied is; islands, which would meet for it, stay as they are."""
    return placed.in_step() if isinstance(placed, Drifting) and not isinstance(placed, Parting) else _NOTHING


def place(
    job: Job, strategy: Strategy | None, *, group: dist.ProcessGroup | None, undo: ExitStack
) -> tuple[Placed, Callable[[], AbstractContextManager[Any]]]:
    """Applies a strategy to a job.

    Args:
        job: worked on in place.
        strategy: None leaves everything as it is.
        group: the strategy's workers; None: all there are.
        undo: takes what undoes it.

    Returns:
        The placed job, and what makes the context of a forward (autocast, or nothing).
    """
    if strategy is None:
        return SoleWorker(job.model, job.optimizer), _no_context
    _check_allowed(job, strategy)
    from meshwright.numerics import kernels_applied, precision_applied
    from meshwright.parallel import ActivationOffload, StateOffload, apply

    undo.enter_context(kernels_applied(strategy.kernels, model=job.model, optimizer=job.optimizer, blocks=job.blocks))
    device = next((tensor.device.type for tensor in job.model.parameters()), "cpu")
    context = (
        _no_context
        if strategy.precision == Precision()
        else partial(precision_applied, strategy.precision, device=device, allow=job.allow)
    )
    placed = apply(
        job.model, job.optimizer, strategy, loss=job.loss, graph_blocks=job.blocks, group=group, context=context
    )
    undo.callback(placed.close)
    if strategy.offload == "state" and job.optimizer is not None:
        undo.callback(StateOffload(job.optimizer).close)
    if strategy.offload == "activations":
        undo.callback(ActivationOffload(job.model, job.blocks).close)
    if job.carried and isinstance(placed, Remembering):
        placed.carry(job.carried)
    return placed, context


def _check_allowed(job: Job, strategy: Strategy) -> None:
    updates = strategy.exchange.updates
    if updates is not None and "staleness" not in job.allow:
        raise PlanError(
            f"the plan has workers train apart ({updates.summary}), but that was not allowed",
            cause="it changes the mathematics, and what changes the mathematics is allowed by name only",
            alternatives=['allow it: mw.parallel(…, allow={"staleness"})', "plan again without it"],
            command="meshwright run SCRIPT --allow staleness",
        )
    if strategy.pipeline is not None and strategy.pipeline.schedule == "asynchronous" and "staleness" not in job.allow:
        raise PlanError(
            "the plan's pipeline is not emptied between steps (schedule asynchronous), but that was not allowed",
            cause="it changes the mathematics, and what changes the mathematics is allowed by name only",
            alternatives=['allow it: mw.parallel(…, allow={"staleness"})', "plan again without it"],
            command="meshwright run SCRIPT --allow staleness",
        )
    compression = strategy.exchange.compression
    if compression is not None and "compression" not in job.allow:
        raise PlanError(
            f"the plan compresses gradients ({compression.summary}), but that was not allowed",
            cause="it changes the mathematics, and what changes the mathematics is allowed by name only",
            alternatives=['allow it: mw.parallel(…, allow={"compression"})', "plan again without it"],
            command="meshwright run SCRIPT --allow compression",
        )


def _no_context() -> AbstractContextManager[None]:
    return _NOTHING
