"""`mw.parallel`: takes what the user has, checks it, and gives a step."""

import atexit
import gc
import inspect
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, overload

import torch
from torch import nn

from meshwright.cost import Allowance
from meshwright.documents import from_mapping, read_toml
from meshwright.errors import UsageError, suggestion
from meshwright.plan import Pins, Plan
from meshwright.run._job import Job, Loss, loss_of_model
from meshwright.run._opening import Request
from meshwright.run._role import role_of
from meshwright.run._session import CURRENT, Session
from meshwright.run._step import Step
from meshwright.run.loop import HandWritten, hand_written


@overload
def parallel(
    model: nn.Module,
    *,
    plan: Mapping[str, Any] | Plan | str | os.PathLike[str] | None = ...,
    allow: Collection[Allowance] = ...,
) -> HandWritten: ...


@overload
def parallel(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    loss: Loss | None = ...,
    *,
    plan: Mapping[str, Any] | Plan | str | os.PathLike[str] | None = ...,
    allow: Collection[Allowance] = ...,
    clip: float | None = ...,
) -> Step: ...


def parallel(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss | None = None,
    *,
    plan: Mapping[str, Any] | Plan | str | os.PathLike[str] | None = None,
    allow: Collection[Allowance] = (),
    clip: float | None = None,
) -> Step | HandWritten:
    """A step that trains the model on however many workers a plan asks for.

    The plan is made on the first batch, by `meshwright run`. Under plain `python` one worker runs, with the model and
    the optimizer exactly as they are.

    With the model alone, what comes back stands for it in a loop written by hand: every worker runs the loop on the
    whole batch, forward and backward are split by any method but pipeline, and `plan={"tensor": 2}` says which.

    Args:
        model: any module, written for one device.
        optimizer: any optimizer over its parameters whose `step()` needs no closure.
        loss: gives, from model and batch, a scalar mean over the examples, or `(total, weight)` where they weigh
            differently; None: the model computes it.
        plan: choices that are fixed (`{"workers": 2}`), a whole plan, or the path of one; the rest is planned.
        allow: departures from the mathematics as written that are permitted, by name.
        clip: largest norm of the whole gradient; None does not clip.

    Raises:
        UsageError: something that cannot be trained, or an unknown name.
        DocumentError: an unknown key or a wrong value in `plan`.
    """
    if optimizer is None and loss is None and clip is None:
        request = _request(plan, _checked_allowances(allow))
        return hand_written(_checked_model(model), request, role_of(os.environ), CURRENT.get())
    job = Job(
        model=_checked_model(model),
        optimizer=_checked_optimizer(optimizer, model),
        loss=loss if loss is not None else loss_of_model,
        clip=_checked_clip(clip),
        allow=_checked_allowances(allow),
    )
    request = _request(plan, job.allow)
    session = CURRENT.get() or _session_of_script(request)
    step = Step(job, request, session)
    session.attach(step)
    return step


def _request(plan: Any, allow: tuple[Allowance, ...]) -> Request:
    if plan is None:
        return Request(allow=allow)
    if isinstance(plan, Plan):
        return Request(plan=plan, allow=allow)
    if isinstance(plan, Mapping):
        return Request(pins=from_mapping(Pins, dict(plan), where="mw.parallel(plan={…})"), allow=allow)
    return Request(plan=read_toml(Plan, Path(plan)), allow=allow)


def _session_of_script(request: Request) -> Session:
    """The session of a script that no `meshwright` command started; it ends with the interpreter."""
    role = role_of(os.environ)
    session = Session(role)
    if role.kind == "alone":
        print(_greeting(request), file=sys.stderr)
    atexit.register(_end, session)
    return session


def _greeting(request: Request) -> str:
    script = Path(sys.argv[0]).name or "SCRIPT"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    command = f"`meshwright run {script}`"
    if request.plan is not None:
        return f"meshwright: one worker, by the plan of the script; {command} follows plans of any number of workers"
    idle = "; the choices in plan= and allow= take effect there only" if request != Request() else ""
    return f"meshwright: one worker, with your own settings; {command} plans for the {cores} cores here{idle}"


def _end(session: Session) -> None:
    error = getattr(sys, "last_value", None)
    interrupted = isinstance(error, KeyboardInterrupt)
    status = "finished" if error is None else "interrupted" if interrupted else "failed"
    session.finish(status, reason="" if error is None else f"{type(error).__name__}: {error}")
    # What still holds a group's threads goes now: one of them that gives a tensor back later aborts the process.
    session.step = None
    gc.collect()


def _checked_model(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module",
            alternatives=["mw.parallel(model, optimizer, loss)"],
        )
    return model


def _checked_optimizer(optimizer: object, model: nn.Module) -> torch.optim.Optimizer:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(
            "mw.parallel got no optimizer"
            if optimizer is None
            else f"the optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer",
            cause="a step updates the parameters",
            alternatives=["mw.parallel(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss)"],
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{type(optimizer).__name__} needs a closure that computes the loss again",
            cause="how often it runs the step is decided inside of it, where a batch cannot be shared out",
            alternatives=["an optimizer whose step() takes no closure: AdamW, SGD, Adafactor, Muon, …"],
        )
    known = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in known for group in optimizer.param_groups for parameter in group["params"]):
        raise UsageError(
            f"the {type(optimizer).__name__} holds none of the parameters of {type(model).__name__}",
            cause="it was made for another model, or before the model's parameters were replaced",
            alternatives=["make the optimizer after the model: AdamW(model.parameters())"],
        )
    return optimizer


def _checked_clip(clip: float | None) -> float | None:
    if clip is not None and not clip > 0:
        raise UsageError(
            f"clip is {clip}",
            cause="it is the largest norm that the whole gradient may have",
            alternatives=["clip=1.0", "leave it out, and nothing is clipped"],
        )
    return clip


def _checked_allowances(allow: Collection[str]) -> tuple[Allowance, ...]:
    names = (allow,) if isinstance(allow, str) else tuple(sorted(allow))
    legal = get_args(Allowance)
    for name in names:
        if name not in legal:
            raise UsageError(
                f"allow has {name!r}",
                cause=suggestion(name, legal) or "no such departure is known",
                alternatives=[f"legal names: {', '.join(legal)}"],
            )
    return names  # type: ignore[return-value]
