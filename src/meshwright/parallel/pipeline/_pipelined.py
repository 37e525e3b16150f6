"""A captured training step run as a pipeline: this worker's stages of it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Action, Pipeline, Schedule, StageEvent, check_schedule, orders
from meshwright.errors import PlanError
from meshwright.parallel._named import all_parameters
from meshwright.parallel.pipeline._executor import Begin, Executor, Pending, Surroundings
from meshwright.parallel.pipeline._flowing import Flowing
from meshwright.parallel.pipeline._holdings import Holdings
from meshwright.parallel.pipeline._host_links import links_between
from meshwright.parallel.pipeline._later import WeightGradients, with_late_weights
from meshwright.parallel.pipeline._messages import Script, script_of
from meshwright.parallel.pipeline._record import Record
from meshwright.parallel.pipeline._stages import Stage, cut
from meshwright.parallel.program import Program
from meshwright.parallel.program._program import tensors_of
from meshwright.units import Seconds

# Gives the program of a micro-batch: the same object for every micro-batch of the same signature.
Programs = Callable[[Any], Program]


class Pipelined:
    """The stages of one worker, and the schedule that it follows.

    All workers of the pipeline make it at the same time, hold every micro-batch whole, and call `compute` with the same
    micro-batches.

    Args:
        programs: the captured step, whole or localised along other axes, for any micro-batch.
        first: a micro-batch, from whose program it is found out who needs which parameters.
        model: the user's.
        pipeline: cuts and schedule.
        group: the pipeline's workers in the order of the stages; None: this worker has all stages.
        optimizer: of the model's parameters.
        prepare: makes of a stage of this worker what is run instead, such as blocks that are recomputed.
        backwards: `whole` computes weights' gradients with the activations' also where the schedule has them later:
            parameters in shards are put together for one backward, and their gradients exchanged behind it.

    Raises:
        PlanError: no stage can begin at a cut, the schedule cannot drive so many stages, or the workers have captured
            different programs.
    """

    def __init__(
        self,
        programs: Programs,
        first: Any,
        *,
        model: nn.Module,
        pipeline: Pipeline,
        group: dist.ProcessGroup | None,
        optimizer: torch.optim.Optimizer | None = None,
        prepare: Callable[[Stage], Stage] = lambda stage: stage,
        backwards: Literal["as_scheduled", "whole"] = "as_scheduled",
    ) -> None:
        self._programs = programs
        self._pipeline = pipeline
        self._group = group
        self._rank = dist.get_rank(group) if group is not None else 0
        self._num_workers = dist.get_world_size(group) if group is not None else 1
        check_schedule(pipeline.schedule, num_workers=self._num_workers, num_stages=pipeline.num_stages)
        self._prepare = prepare
        self._halved = pipeline.schedule == "zero_bubble" and backwards == "as_scheduled"
        self._waiting = WeightGradients()
        self._stages: dict[int, tuple[Program, tuple[Stage, ...]]] = {}
        self._scripts: dict[tuple[int, ...], Script] = {}
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        self._links = links_between(group, device)
        self._record = Record(device)
        self._schedule = pipeline.schedule
        self._flowing: Flowing | None = None
        self.holdings = Holdings(
            self.stages_of(first),
            parameters=dict(all_parameters(model, optimizer)),
            buffers=dict(model.named_buffers()),
            group=group,
        )
        if pipeline.schedule == "asynchronous" and self.holdings.tied:
            raise PlanError(
                f"schedule asynchronous with {', '.join(self.holdings.tied)} on several stages",
                cause="the stages' gradients of it come in different steps: their copies would become different",
                alternatives=["--set schedule=1f1b", "cuts that leave all its uses on one stage"],
            )
        self.holdings.release()

    @property
    def has_loss(self) -> bool:
        """Whether the last stage is on this worker."""
        return (self._pipeline.num_stages - 1) % self._num_workers == self._rank

    @property
    def events(self) -> tuple[StageEvent, ...]:
        """What this worker did in the last step, in seconds from the step's beginning here."""
        return self._record.events(self._rank)

    @property
    def stamps(self) -> list[tuple[Action, Any, Any]]:
        """The same without waiting for an accelerator: each action with the stamps at its beginning and its end."""
        return self._record.stamps

    @property
    def began(self) -> Seconds:
        """When the last step began here (s since 1970)."""
        return self._record.began

    @property
    def waited(self) -> Seconds:
        """How long this worker waited for other stages since it was made (s)."""
        return self._links.waited

    def own_stages(self, batch: Any) -> tuple[Stage, ...]:
        """This worker's stages for micro-batches like this one."""
        return self.stages_of(batch)[self._rank :: self._num_workers]

    def stages_of(self, batch: Any) -> tuple[Stage, ...]:
        """All stages for micro-batches like this one; all workers ask for a new kind of micro-batch together.

        Raises:
            PlanError: the cuts are not possible for these micro-batches, or the workers have different programs.
        """
        program = self._programs(batch)
        if id(program) not in self._stages:
            stages = cut(program, self._pipeline.cuts)
            self._check_agreement(stages)
            prepared = tuple(
                self._prepared(stage) if stage.index % self._num_workers == self._rank else stage for stage in stages
            )
            self._stages[id(program)] = program, prepared
        return self._stages[id(program)][1]

    def compute(self, batches: Sequence[Any], begin: Begin, around: Surroundings | None = None) -> None:
        """Forward and backward of all micro-batches; leaves this worker's gradients in its parameters.

        Args:
            batches: the micro-batches in the user's structure, of any sizes.
            begin: on the worker that has the last stage, gives what the backward of a micro-batch starts from, of the
                loss function's output and the micro-batch's number.
            around: what surrounds pieces of the work.

        Raises:
            WorkerError: another worker has ended, or does not answer.
        """
        self._record.begin()
        if not batches:
            return
        stages = [self.stages_of(batch) for batch in batches]
        tensors = [tensors_of(batch) for batch in batches]
        if self._schedule == "asynchronous":
            self._flow(len(batches)).step(stages, tensors, begin, around or Surroundings())
            return
        kinds = tuple(id(some) for some in stages)
        if kinds not in self._scripts:
            lists = orders(
                self._schedule,
                num_workers=self._num_workers,
                num_stages=self._pipeline.num_stages,
                num_micro_batches=len(batches),
            )
            self._scripts[kinds] = script_of(self._rank, lists if self._halved else _whole(lists), stages)
        script = self._scripts[kinds]
        assert not script.later, script.later
        executor = self._executor(script, stages, tensors, Pending())
        executor.run(begin, around or Surroundings())
        executor.end()

    @property
    def delay(self) -> int:
        """Steps by which this worker's gradients come late."""
        return self._flowing.delay if self._flowing is not None and self._schedule == "asynchronous" else 0

    @property
    def schedule(self) -> Schedule:
        """That is followed now."""
        return self._schedule

    @property
    def rounds(self) -> int:
        """Rounds of `drain` until nothing is under way; the same on every worker."""
        return self._flowing.rounds if self._flowing is not None else 0

    def drain(self, around: Surroundings) -> None:
        """A round without micro-batches: backwards of some that are under way."""
        assert self._flowing is not None
        self._record.begin()
        self._flowing.drain(around)

    def hand_over(self, divisor: float | None) -> float:
        """Leaves the gradient that is whole now in the parameters; gives what it has to be divided by.

        Args:
            divisor: of the gradient of the step that was just run; None after a round of `drain`.
        """
        if self._flowing is None or self._schedule != "asynchronous":
            return 1.0 if divisor is None else divisor
        return self._flowing.hand_over(divisor)

    def emptied(self) -> None:
        """All rounds of `drain` are done."""
        if self._flowing is not None:
            self._flowing.emptied()
            self._links.finish()

    def follow_schedule(self, schedule: Schedule) -> None:
        """Another order from the next step on; nothing may be under way."""
        assert not self.rounds
        self._scripts.clear()
        self._schedule = schedule

    def _flow(self, num_micro_batches: int) -> Flowing:
        if self._flowing is None:
            self._flowing = Flowing(
                rank=self._rank,
                num_stages=self._num_workers,
                num_micro_batches=num_micro_batches,
                parameters=lambda: self.holdings.parameters,
                execute=self._executor,
            )
        return self._flowing

    def _executor(
        self,
        script: Script,
        stages: Sequence[Sequence[Stage]] | Mapping[int, Sequence[Stage]],
        tensors: Sequence[Sequence[Tensor]],
        pending: Pending,
    ) -> Executor:
        return Executor(
            script.steps,
            stages=stages,
            tensors=tensors,
            links=self._links,
            waiting=self._waiting,
            record=self._record,
            pending=pending,
        )

    def close(self) -> None:
        """Forgets the stages and ends the links."""
        self._links.close()
        self._stages.clear()
        self._scripts.clear()

    def _prepared(self, stage: Stage) -> Stage:
        if self._halved:
            stage = stage.with_graph(with_late_weights(stage.program.graph_module, self._waiting))
        return self._prepare(stage)

    def _check_agreement(self, stages: Sequence[Stage]) -> None:
        """Whether all workers have cut the same program: messages would be mistaken for others, or waited for forever.

        Raises:
            PlanError: they have not.
        """
        if self._group is None:
            return
        described = repr([(stage.receives, stage.makes) for stage in stages])
        own = hashlib.sha256(described.encode()).hexdigest()
        found = [""] * self._num_workers
        dist.all_gather_object(found, own, group=self._group)
        if len(set(found)) > 1:
            raise PlanError(
                f"the {self._num_workers} workers of a pipeline have captured different programs",
                cause="the model computes something else on other workers, or other micro-batches were given to them",
                alternatives=["build the same model on every worker, whatever its rank"],
            )


def _whole(lists: Sequence[Sequence[Action]]) -> list[list[Action]]:
    """The same orders with every backward in one piece, where its first half would be."""
    return [
        [
            replace(action, work="backward") if action.work == "input" else action
            for action in some
            if action.work != "weight"
        ]
        for some in lists
    ]
