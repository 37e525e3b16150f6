"""A checkpoint that is whole, or not there: model, optimizer, random numbers, step count.

It holds whole tensors by the user's names, whatever each worker has of them, so that any number of workers under any
strategy can go on from it. Worker 0 gathers and writes one tensor after another.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import UsageError, from_json, to_json
from meshwright.run._checkpoint_files import CheckpointReader, CheckpointWriter
from meshwright.run._engine import Engine
from meshwright.run._job import Job
from meshwright.run._placement import Drifting, Remembering

if TYPE_CHECKING:
    from meshwright.parallel import Piece

# The generator's state is stored among the optimizer's tensors.
_RANDOM = "random"


def save(job: Job, engine: Engine | None, folder: str | os.PathLike[str]) -> None:
    """Stores a checkpoint; every worker calls it, rank 0 writes.

    Raises:
        UsageError: it cannot be written, or the optimizer's state cannot be put together; on every worker.
    """
    source: _Alone | _Together = _Alone(job) if engine is None or engine.num_workers == 1 else _Together(job, engine)
    writer = _Draining(Path(folder)) if engine is None or engine.rank == 0 else None
    for kind, tensors in (
        ("model", source.model()),
        ("optimizer", source.optimizer()),
        ("exchange", source.exchange()),
    ):
        if writer is None:
            for _ in tensors:
                pass
        else:
            writer.tensors(kind, tensors)
    settings = {"groups": job.optimizer.state_dict()["param_groups"], "state": source.numbers()}
    settings["steps"] = 0 if engine is None else engine.steps
    source.conclude("" if writer is None else writer.finish(settings))


def load(job: Job, engine: Engine | None, folder: str | os.PathLike[str]) -> Job:
    """Puts a checkpoint into a job that has not been stepped; every worker calls it.

    Returns:
        The job with what the exchange has to go on from.

    Raises:
        UsageError: steps have been run, or no whole checkpoint is there.
    """
    if engine is not None:
        raise UsageError(
            f"step.load({str(folder)!r}) after {engine.steps} steps",
            cause="the plan has been applied to the model by then",
            alternatives=["load right after mw.parallel(…)"],
        )
    reader = CheckpointReader(Path(folder))
    job.model.load_state_dict(reader.tensors("model"))
    settings, tensors = reader.settings, reader.tensors("optimizer")
    torch.set_rng_state(tensors.pop(_RANDOM))
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in settings["state"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    job.optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})
    return replace(job, carried=reader.tensors("exchange"))


class _Alone:
    """What one worker has.

    Args:
        job: with the newest tensors.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def model(self) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors by key."""
        yield from self._job.model.state_dict().items()

    def optimizer(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's tensors, and the generator's state."""
        yield _RANDOM, torch.get_rng_state()
        for number, values in self._job.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    yield f"{number}.{name}", value

    def exchange(self) -> Iterator[tuple[str, Tensor]]:
        """Nothing is exchanged."""
        return iter(())

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state that is no tensor, by number of the parameter."""
        return _numbers(self._job.optimizer)

    def conclude(self, failure: str) -> None:
        """Raises what kept the checkpoint from being written."""
        if failure:
            raise UsageError(f"the checkpoint was not saved: {failure}")


class _Together:
    """What all workers have together, on rank 0.

    Args:
        job: of this worker.
        engine: that runs it.

    Raises:
        UsageError: some worker's optimizer state cannot be put together; on every worker.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self._job = job
        self._placed = engine.placed
        if isinstance(self._placed, Drifting):
            self._placed.settle()
        self._group = engine.group
        self._pieces = self._optimizer_pieces()

    def model(self) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors by key, gathered one by one."""
        from meshwright.parallel import collected

        yield from collected(self._placed.held_state(), self._group)

    def optimizer(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's tensors, gathered one by one, and the generator's state."""
        from meshwright.parallel import collected

        yield _RANDOM, torch.get_rng_state()
        yield from collected(self._pieces, self._group)

    def exchange(self) -> Iterator[tuple[str, Tensor]]:
        """What the exchange has left out so far, summed over the workers."""
        return self._placed.carried() if isinstance(self._placed, Remembering) else iter(())

    def _optimizer_pieces(self) -> "list[Piece]":
        from meshwright.parallel import optimizer_pieces

        pieces, error = [], ""
        try:
            pieces = optimizer_pieces(self._job.optimizer, self._placed.held())
        except UsageError as raised:
            error = to_json(raised)
        everyone = [""] * dist.get_world_size(self._group)
        dist.all_gather_object(everyone, error, group=self._group)
        if any(everyone):
            raise from_json(next(text for text in everyone if text))
        return pieces

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state that is no tensor, by number of the parameter."""
        everyone: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(everyone, _numbers(self._job.optimizer), group=self._group)
        return {number: values for each in reversed(everyone) for number, values in each.items()}

    def conclude(self, failure: str) -> None:
        """Raises on every worker what kept rank 0 from writing; whoever goes on, the checkpoint is there."""
        message = [failure]
        dist.broadcast_object_list(message, src=dist.get_process_group_ranks(self._group)[0], group=self._group)
        if message[0]:
            raise UsageError(f"the checkpoint was not saved: {message[0]}")


class _Draining:
    """A writer that, once it has failed, still takes everything: the other workers would wait for ever.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._failure = ""
        self._writer: CheckpointWriter | None = None
        try:
            self._writer = CheckpointWriter(folder)
        except OSError as error:
            self._failure = str(error)

    def tensors(self, kind: str, named: Iterator[tuple[str, Tensor]]) -> None:
        """Writes tensors."""
        if self._writer is not None and not self._failure:
            try:
                self._writer.tensors(kind, named)
            except OSError as error:
                self._failure = str(error)
        for _ in named:
            pass

    def finish(self, settings: dict[str, Any]) -> str:
        """Puts the checkpoint into its place; what kept it from there, or nothing."""
        if self._writer is None:
            return self._failure
        if not self._failure:
            try:
                self._writer.finish(settings)
            except OSError as error:
                self._failure = str(error)
        if self._failure:
            self._writer.abandon()
        return self._failure


def _numbers(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    found = {
        str(number): {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        for number, values in optimizer.state_dict()["state"].items()
    }
    return {number: values for number, values in found.items() if values}
