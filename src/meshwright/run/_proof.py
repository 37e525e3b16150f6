"""The proof: a plan's steps against the same steps on one device.

First the one-device program runs on rank 0, on a copy, with the kernels as the user has them. Then all workers run the
same batches under the plan. Losses, all gradients and all parameters are compared.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Strategy, Verification
from meshwright.documents import write_toml
from meshwright.errors import NotEqualError, UsageError
from meshwright.run._agreement import check_agreement
from meshwright.run._cast import cast_batch, cast_job
from meshwright.run._distance import Distance, difference, distance, whole_norm
from meshwright.run._engine import Engine
from meshwright.run._job import Job
from meshwright.run._placement import Parting, Unwaiting
from meshwright.run._quiet import random_operations_off
from meshwright.run._reference import Hyperparameters, Reference, hyperparameters_of, set_hyperparameters
from meshwright.run._role import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What rounding explains in a data type; all relative.

    Args:
        gradient: of the whole gradient, and of the loss.
        parameters: of the way that the parameters walked.
        noise: a parameter whose gradient is smaller than this part of the whole has no gradient but rounding. Adam
            divides it by its own size, so that it walks as far as any other, in no direction: it is left out.
    """

    gradient: float
    parameters: float
    noise: float


TOLERANCES = {
    "float64": Tolerance(gradient=1e-9, parameters=1e-7, noise=1e-14),
    "float32": Tolerance(gradient=1e-4, parameters=1e-3, noise=1e-6),
    "bfloat16": Tolerance(gradient=5e-2, parameters=0.5, noise=1e-2),
    "float16": Tolerance(gradient=5e-2, parameters=0.5, noise=1e-2),
}


class Proof:
    """Collects steps of the one-device program, then runs them again under a strategy and compares.

    Args:
        job: run under the strategy, in place.
        strategy: what is to be proved; None: the plain step.
        role: of this worker; `steps` of it are compared.
    """

    def __init__(self, job: Job, strategy: Strategy | None, *, role: Role) -> None:
        self._job = cast_job(job, getattr(torch, role.dtype)) if role.dtype else job
        self._strategy = strategy
        self._role = role
        self._reference = Reference(self._job.copy()) if role.rank == 0 else None
        self._batches: list[Any] = []
        self._settings: list[Hyperparameters] = []

    @property
    def num_steps(self) -> int:
        """Steps collected."""
        return len(self._batches)

    def step(self, batch: Any) -> Tensor:
        """Runs a step of the one-device program; after the last one compares, writes, and ends the script.

        Returns:
            The one-device program's loss.

        Raises:
            NotEqualError: the plan computes something else.
            SystemExit: it computes the same.
        """
        dtype = self._role.dtype
        loss = self.collect(cast_batch(batch, getattr(torch, dtype)) if dtype else batch)
        if len(self._batches) == self._role.steps:
            self.leave()
        return loss

    def leave(self) -> None:
        """Compares what has been collected, writes it, and ends the script."""
        verification = self.conclude()
        if self._role.rank == 0 and self._role.folder is not None:
            write_toml(verification, self._role.folder / "verification.toml")
        if not verification.equal:
            raise not_equal(verification)
        raise SystemExit(0)

    def collect(self, batch: Any) -> Tensor:
        """Runs a step of the one-device program; returns its loss on every worker."""
        if self._role.world_size > 1:
            check_agreement(batch)
        settings = copy.deepcopy(hyperparameters_of(self._job.optimizer))
        self._batches.append(batch)
        self._settings.append(settings)
        value = torch.zeros((), dtype=torch.float64)
        if self._reference is not None:
            value = self._reference.step(batch, settings).double().cpu()
        if self._role.world_size > 1:
            dist.broadcast(value, src=0)
        return value.to(torch.get_default_dtype())

    def conclude(self) -> Verification:
        """Runs the same steps under the strategy, and compares; every worker gets the answer.

        Raises:
            UsageError: no step was collected.
        """
        if not self._batches:
            raise UsageError("no step to verify", cause="the script never called step(batch)")
        message: list[Any] = [self._reference is not None and self._reference.is_random, None]
        self._tell(message)
        engine = Engine(self._job, self._strategy, rank=self._role.rank)
        losses, gradients = [], []
        with _together(engine.placed):
            for index, batch in enumerate(self._batches):
                set_hyperparameters(self._job.optimizer, self._settings[index])
                loss, found = _step(engine, batch, is_random=message[0])
                losses.append(loss)
                gradients.append(self._gradient_distance(index, found))
        parameters = engine.placed.full_parameters()
        engine.close()
        if self._reference is not None:
            message[1] = self._verification(self._reference, losses, gradients, parameters)
        self._tell(message)
        return message[1]

    def _tell(self, message: list[Any]) -> None:
        if self._role.world_size > 1:
            dist.broadcast_object_list(message, src=0)

    def _gradient_distance(self, index: int, found: dict[str, Tensor | None]) -> Distance | None:
        if self._reference is None:
            return None
        expected = self._reference.steps[index].gradients
        return distance(found, expected, scale=whole_norm(expected))

    def _verification(
        self, reference: Reference, losses: list[float], gradients: list[Any], parameters: dict[str, Tensor]
    ) -> Verification:
        dtype = _dtype(self._job.model, self._strategy)
        tolerance = TOLERANCES[dtype]
        noise = reference.without_gradient(tolerance.noise)
        expected = reference.parameters()
        walked = {name: difference(value, reference.begin[name]) for name, value in expected.items()}
        for name in noise:
            del expected[name], parameters[name]
        moved = distance(parameters, expected, scale=whole_norm(walked))
        worst = max(gradients, key=lambda item: item.whole)
        wanted = [step.loss for step in reference.steps]
        off = max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(losses, wanted, strict=True))
        equal = max(off, worst.whole) <= tolerance.gradient and moved.whole <= tolerance.parameters
        return Verification(
            equal=equal,
            steps=len(losses),
            dtype=dtype,
            strategy=self._strategy.summary if self._strategy is not None else "the plain step",
            tolerance=tolerance.gradient,
            loss=off,
            gradient=worst.whole,
            worst_gradient=worst.worst,
            worst_gradient_distance=worst.worst_value,
            parameters=moved.whole,
            parameter_tolerance=tolerance.parameters,
            worst_parameter=moved.worst,
            worst_parameter_distance=moved.worst_value,
            losses=tuple(losses),
            reference_losses=tuple(wanted),
            notes=(*_notes(reference, noise), *_apart(self._strategy)),
        )


def not_equal(verification: Verification) -> NotEqualError:
    """The error for a plan that computes something else."""
    found = verification
    return NotEqualError(
        f"the plan computes something else than one device: loss off by {found.loss:.1e}, gradient by "
        f"{found.gradient:.1e} of its norm (worst: {found.worst_gradient}, {found.worst_gradient_distance:.1e}), "
        f"parameters by {found.parameters:.1e} of their way after {found.steps} steps; "
        f"{found.tolerance:.0e} is rounding",
        cause=f"plan: {found.strategy}",
        alternatives=[
            "a loss that is no mean over the examples has to be returned as (total, weight)",
            "the first dim of every tensor in the batch has to count examples",
            *found.notes,
        ],
        command="meshwright verify SCRIPT --set workers=1",
    )


def _step(engine: Engine, batch: Any, *, is_random: bool) -> tuple[float, dict[str, Tensor | None]]:
    engine.begin()
    if is_random:
        with random_operations_off(engine.placed.model):
            loss = engine.compute(engine.share(batch))
    else:
        loss = engine.compute(engine.share(batch))
    gradients = engine.placed.full_gradients()
    engine.update()
    islands = _meeting(engine.placed)
    return loss.item() if islands is None else islands.averaged(loss.item()), gradients


def _meeting(placed: object) -> Parting | None:
    """Islands that meet, and so can be kept in step."""
    return placed if isinstance(placed, Parting) and not isinstance(placed, Unwaiting) else None


def _together(placed: object) -> AbstractContextManager[object]:
    """Inside of it islands take every step together: what they do inside, and over their bridges, is what is proved."""
    islands = _meeting(placed)
    return nullcontext() if islands is None else islands.in_step()


def _apart(strategy: Strategy | None) -> tuple[str, ...]:
    updates = strategy.exchange.updates if strategy is not None else None
    if updates is None or updates.kind != "local":
        return ()
    return (f"islands took every step together: {updates.summary} are by choice not the one-device program's",)


def _notes(reference: Reference, noise: list[str]) -> tuple[str, ...]:
    notes = []
    if noise:
        named = ", ".join(noise[:3]) + (f" and {len(noise) - 3} more" if len(noise) > 3 else "")
        notes.append(f"gradient zero but for rounding, left out of the parameters' distance: {named}")
    if reference.is_random:
        notes.append("random operations (dropout) were off on both sides, because each worker draws its own numbers")
    if reference.is_still_random:
        notes.append("the model draws random numbers in evaluation mode too; differences may come from them")
    return tuple(notes)


def _dtype(model: nn.Module, strategy: Strategy | None) -> str:
    """The coarsest data type that the comparison goes through."""
    names = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    if strategy is not None and strategy.precision.compute != "as_written":
        names.add(strategy.precision.compute)
    return max(names & set(TOLERANCES), key=lambda name: TOLERANCES[name].gradient, default="float32")
