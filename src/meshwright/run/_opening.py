"""What the first batch decides: plan, proof, or simply steps."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meshwright.cost import Allowance, Strategy
from meshwright.documents import read_toml, write_toml
from meshwright.errors import PlanError
from meshwright.plan import Pins, Plan
from meshwright.run._engine import Engine
from meshwright.run._first_losses import FirstLosses
from meshwright.run._group import meet
from meshwright.run._job import Job
from meshwright.run._processor import pin
from meshwright.run._proof import Proof
from meshwright.run._role import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the script asks of its plan.

    Args:
        plan: a whole plan; None where one is to be made.
        pins: choices made in the script.
        allow: departures from the user's mathematics that the script permits.
    """

    plan: Plan | None = None
    pins: Pins = Pins()
    allow: tuple[Allowance, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """How the steps are run.

    Args:
        job: with what is known of it now.
        plan: None where the script runs as it is written.
        engine: runs steps; None where another does.
        stand_in: runs them in its place: a proof, or the one-device program beside planning; None in a run.
        folder: to write measurements into; None for none.
    """

    job: Job
    plan: Plan | None = None
    engine: Engine | None = None
    stand_in: Proof | FirstLosses | None = None
    folder: Path | None = None


def opened(job: Job, request: Request, role: Role, batch: Any) -> Opening:
    """Opens the run at its first batch; in the role `plan` it makes the plan instead.

    Raises:
        PlanError: the plan is for another model, or another number of workers.
        SystemExit: the plan has been made, and this rank is not needed any more.
    """
    if role.kind == "plan":
        from meshwright.run._planning import plan_first

        assert role.folder is not None
        steps = plan_first(job, batch, role, pins=request.pins, allow=request.allow, given=request.plan)
        return Opening(job=job, stand_in=FirstLosses(job, folder=role.folder, steps=steps))
    if role.kind == "alone":
        return _alone(job, request)
    if role.kind == "joined":
        return _joined(job, request, role, batch)
    assert role.plan is not None
    plan = read_toml(Plan, role.plan)
    check_plan(plan, type(job.model).__name__, world_size=role.world_size)
    job = _under(plan, job)
    if role.kind == "verify":
        return Opening(job=job, plan=plan, stand_in=Proof(job, plan.strategy, role=role))
    engine = Engine(job, plan.strategy, rank=role.rank)
    return Opening(job=job, plan=plan, engine=engine, folder=role.folder)


def _under(plan: Plan, job: Job) -> Job:
    """The job as a plan runs it."""
    return replace(job, blocks=plan.blocks, allow=plan.allow)


def check_plan(plan: Plan, model: str, *, world_size: int) -> None:
    """Refuses a plan that was made for something else.

    Args:
        plan: that is asked for.
        model: name of the class that the script trains.
        world_size: workers that were started.

    Raises:
        PlanError: for another model, or another number of workers.
    """
    if plan.model and plan.model != model:
        raise PlanError(
            f"the plan is for {plan.model}, and the script trains {model}",
            cause="a plan's memory and times hold for the model that it was made for",
            alternatives=["leave the plan out, so that one is made"],
            command="meshwright plan SCRIPT",
        )
    if plan.strategy.num_workers != world_size:
        raise PlanError(
            f"the plan is for {plan.strategy.num_workers} workers, and {world_size} were started",
            cause="each worker of a plan is a process",
            alternatives=[f"start {plan.strategy.num_workers} processes", "leave the plan out, so that one is made"],
            command="meshwright run SCRIPT",
        )


def _alone(job: Job, request: Request) -> Opening:
    strategy: Strategy | None = None
    if request.plan is not None:
        check_plan(request.plan, type(job.model).__name__, world_size=1)
        strategy, job = request.plan.strategy, _under(request.plan, job)
    return Opening(job=job, plan=request.plan, engine=Engine(job, strategy))


def _joined(job: Job, request: Request, role: Role, batch: Any) -> Opening:
    """Among processes that torchrun or srun started: rank 0 plans for as many workers as there are."""
    if not dist.is_initialized():
        meet(role)
    plan = request.plan
    if plan is None:
        from meshwright.run._planning import plan_together

        plan = plan_together(job, batch, role, pins=request.pins, allow=request.allow)
    check_plan(plan, type(job.model).__name__, world_size=role.world_size)
    worker = plan.strategy.workers[role.rank]
    torch.set_num_threads(worker.threads)
    pin(worker)
    message = [Path("outputs") / f"{Path(sys.argv[0]).stem or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"]
    dist.broadcast_object_list(message, src=0)
    folder, job = role.folder or message[0], _under(plan, job)
    if role.rank == 0:
        write_toml(plan, folder / "plan.toml")
    return Opening(job=job, plan=plan, engine=Engine(job, plan.strategy, rank=role.rank), folder=folder)
