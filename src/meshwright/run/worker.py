"""The process around a user's script: `python -m meshwright.run.worker SCRIPT [ARGS]`.

It takes its place in the run, runs the script as `python SCRIPT` would, and ends as the run ended: with measurements on
disk, an error as a document, and an exit code.
"""

import os
import runpy
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from meshwright.documents import read_toml, write_text
from meshwright.errors import MeshwrightError, UsageError, WorkerError, to_json
from meshwright.plan import Plan, rank_at
from meshwright.run._ending import INTERRUPTED, Ending, end_on_signals, end_with_parent
from meshwright.run._processor import prepare
from meshwright.run._role import Role, role_of
from meshwright.run._session import CURRENT, Session

NEEDED = ("step = mw.parallel(model, optimizer, loss)", "for batch in loader: value = step(batch)")


def main(arguments: list[str]) -> int:
    """Runs the script in the role that the environment gives; returns the exit code.

    Args:
        arguments: the script and its own arguments.
    """
    role = _of_its_place(role_of(os.environ))
    session = Session(role)
    CURRENT.set(session)
    end_with_parent()
    end_on_signals(lambda: session.finish("interrupted", reason="stopped by a signal, in the middle of a step"))
    try:
        _check_script(arguments)
        _take_place(role)
        _run(role, session, arguments)
        session.finish("finished")
    except KeyboardInterrupt:
        session.finish("interrupted", reason="stopped by a signal")
        return INTERRUPTED
    except MeshwrightError as error:
        return _failed(session, error)
    except SystemExit as end:
        return _left(session, end)
    except Exception as error:
        _print_from_script(error, arguments[0])
        session.finish("failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _of_its_place(role: Role) -> Role:
    """The role with the rank that the plan has at this place; others read it from the environment, too."""
    if role.kind not in ("run", "verify") or role.plan is None or role.world_size == 1:
        return role
    with suppress(MeshwrightError):  # `_take_place` reads it again, and says what is wrong with it
        strategy = read_toml(Plan, role.plan).strategy
        if strategy.num_workers == role.world_size:
            role = replace(role, rank=rank_at(strategy, role.rank))
            os.environ["RANK"] = str(role.rank)
    return role


def _take_place(role: Role) -> None:
    """Threads, cores and the group of workers, before the script is read."""
    if role.kind not in ("run", "verify"):
        return
    if role.plan is None:
        raise UsageError(f"MESHWRIGHT_PLAN is not set in the role {role.kind}", command="meshwright run SCRIPT")
    plan = read_toml(Plan, role.plan)
    if role.rank < plan.strategy.num_workers:
        worker = plan.strategy.workers[role.rank]
        prepare(worker)
        import torch

        torch.set_num_threads(worker.threads)
    if role.world_size > 1:
        from meshwright.run._group import meet
        from meshwright.run._randomness import share_chance

        meet(role)
        share_chance()


def _check_script(arguments: list[str]) -> None:
    if not arguments:
        raise UsageError("no script", command="python -m meshwright.run.worker SCRIPT [ARGS]")
    if not Path(arguments[0]).is_file():
        raise UsageError(f"no script at {arguments[0]}", cause=f"the folder is {Path.cwd()}")


def _run(role: Role, session: Session, arguments: list[str]) -> None:
    if role.kind == "plan" and role.rank > 0:
        from meshwright.run import _trial

        _trial.serve(lambda: run_script(arguments))
        return
    if role.kind == "plan":
        from meshwright.graph.capture_accelerator import autocast_remembered

        with autocast_remembered():
            run_script(arguments)
    else:
        run_script(arguments)
    step = session.step
    if step is None or (step.steps == 0 and role.kind != "run"):
        called = "mw.parallel" if step is None else "step(batch)"
        raise UsageError(
            f"{arguments[0]} ended without a call of {called}",
            cause="a step is planned, run and verified where the script hands over its model and its batches",
            alternatives=NEEDED,
            command="meshwright examples",
        )
    step.leave()


def run_script(arguments: list[str]) -> None:
    """Runs a script as `python` would: as `__main__`, with its arguments, its own folder first on the path."""
    script = Path(arguments[0])
    sys.argv = list(arguments)
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


def _failed(session: Session, error: MeshwrightError) -> int:
    """Hands an error to the process that started this one, or to the user."""
    role = session.role
    reason = str(error).splitlines()[0]
    if role.folder is None:
        print(error, file=sys.stderr)
    else:
        write_text(role.folder / "workers" / f"rank-{role.rank}.error.json", to_json(error) + "\n")
    if isinstance(error, WorkerError):
        reason = f"{reason} ({error.cause})"
    session.finish("failed", reason=reason)
    return error.exit_code


def _print_from_script(error: BaseException, script: str) -> None:
    """Prints a traceback as python would have: from the script on, without the frames that run it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)


def _left(session: Session, end: SystemExit) -> int:
    """The exit code of a script that called sys.exit."""
    code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
    session.finish(
        "finished" if code == 0 else "failed", reason="" if code == 0 else f"the script left with {end.code}"
    )
    return code


if __name__ == "__main__":
    ending = Ending()
    ending.code = main(sys.argv[1:])
    sys.exit(ending.code)
