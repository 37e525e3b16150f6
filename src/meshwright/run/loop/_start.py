"""How a hand-written loop starts: alone, planned for, under a plan, or among workers that stand already."""

import atexit
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from meshwright.cost import Strategy
from meshwright.documents import read_toml
from meshwright.errors import UsageError
from meshwright.plan import Goal, Plan
from meshwright.run._clock import clock_for
from meshwright.run._group import meet
from meshwright.run._metrics import Recorder
from meshwright.run._opening import Request, check_plan
from meshwright.run._role import Role
from meshwright.run._session import Session
from meshwright.run.loop._hand_written import HandWritten
from meshwright.run.loop._lone_worker import LoneWorker
from meshwright.run.loop._record import LoopRecord


def hand_written(model: nn.Module, request: Request, role: Role, session: Session | None) -> HandWritten:
    """The model for a hand-written loop.

    Args:
        model: the user's.
        request: what the script asks of the plan.
        role: of this process.
        session: of a process that a `meshwright` command started; None for any other.

    Raises:
        UsageError: what is asked for needs the whole step in one hand.
        PlanError: the plan is for another model, or another number of workers.
    """
    if role.kind == "verify":
        raise UsageError(
            "mw.parallel(model) alone cannot be verified",
            cause="a proof repeats whole steps on one device, and the loss and the update are in the script's own loop",
            alternatives=["mw.parallel(model, optimizer, loss)", "meshwright run SCRIPT"],
        )
    if role.kind == "plan":
        return _planned(model, request, role)
    if role.kind == "run":
        assert role.plan is not None
        assert session is not None
        return _under(read_toml(Plan, role.plan), model, role, session)
    if role.kind == "joined" or dist.is_initialized():
        return _joined(model, request, role)
    return HandWritten(model, LoneWorker(model, LoopRecord(None, clock=clock_for(torch.device("cpu")))))


def _planned(model: nn.Module, request: Request, role: Role) -> HandWritten:
    from meshwright.run.loop._planning import LoopPlanner

    planner = LoopPlanner(model, role, pins=request.pins, allow=request.allow, given=request.plan)
    return HandWritten(model, planner)


def _under(plan: Plan, model: nn.Module, role: Role, session: Session) -> HandWritten:
    """A run under a plan."""
    check_plan(plan, type(model).__name__, world_size=role.world_size)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    clock = clock_for(device)
    record = LoopRecord(Recorder(role.folder, clock=clock, rank=role.rank), clock=clock)
    session.attach(record)
    return _following(_with_gradients(plan), model, record, blocks=plan.blocks, plan=plan)


def _with_gradients(plan: Plan) -> Strategy:
    """The plan's strategy, with whole gradients unless the user asked for shards: a script may look at them all."""
    strategy = plan.strategy
    if strategy.sharding == "gradients" and plan.origins.get("sharding", "default") == "default":
        return replace(strategy, sharding="optimizer")
    return strategy


def _joined(model: nn.Module, request: Request, role: Role) -> HandWritten:
    """Among processes that torchrun or srun started."""
    from meshwright.run.loop._pinned_strategy import pinned_strategy, repeated_blocks
    from meshwright.run.loop._planning import check_followed

    check_followed(Goal(pins=request.pins, allow=request.allow))
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    record = LoopRecord(None, clock=clock_for(device))
    if not dist.is_initialized():
        meet(role)
        session = Session(role)
        session.attach(record)
        atexit.register(session.finish, "finished")
    size = dist.get_world_size()
    if request.plan is not None:
        check_plan(request.plan, type(model).__name__, world_size=size)
        return _following(request.plan.strategy, model, record, blocks=request.plan.blocks, plan=request.plan)
    strategy = pinned_strategy(request.pins, world_size=size, device=device.type, threads=torch.get_num_threads())
    return _following(strategy, model, record, blocks=repeated_blocks(model), plan=None)


def _following(
    strategy: Strategy, model: nn.Module, record: LoopRecord, *, blocks: tuple[str, ...], plan: Plan | None
) -> HandWritten:
    from meshwright.run.loop._planning import check_strategy

    check_strategy(strategy)
    if strategy.kernels != type(strategy.kernels)():
        from meshwright.numerics import kernels_applied

        record.undo.enter_context(kernels_applied(strategy.kernels, model=model, optimizer=None, blocks=blocks))
    if strategy.num_workers == 1:
        return HandWritten(model, LoneWorker(model, record))
    from meshwright.run.loop._workers import LoopWorkers

    # found again from the forward alone: a loss of which parts are computed on parts is not in the graph
    open_strategy = replace(strategy, placements=(), pipeline=None)
    return HandWritten(model, LoopWorkers(model, open_strategy, blocks=blocks, record=record, plan=plan))
