"""What cannot be combined with a split model, said before anything is split."""

from torch.optim import Optimizer

from meshwright.cost import Mesh, Strategy
from meshwright.errors import PlanError
from meshwright.parallel._elementwise import is_elementwise

_COMMAND = "meshwright plan SCRIPT"


def check(strategy: Strategy, optimizer: Optimizer | None) -> None:
    """Refuses what would compute something else than one device.

    Raises:
        PlanError: names the axis, what stands against it, and what would do.
    """
    mesh = strategy.mesh
    _check_flowing(strategy)
    if strategy.kernels.compiled:
        raise PlanError(
            f"{_axes(mesh)} with compiled blocks is not there",
            cause="a split model runs a captured program, which torch.compile of the user's modules does not reach",
            alternatives=["--set compiled=false", "data parallelism: compiled blocks work with it"],
            command=_COMMAND,
        )
    split = [name for name, degree in (("tensor", mesh.tp), ("expert", mesh.ep)) if degree > 1]
    if strategy.sharding == "parameters":
        split.append("sharding = parameters")
    if split and optimizer is not None and not is_elementwise(optimizer):
        name = type(optimizer).__name__
        raise PlanError(
            f"{name} cannot step parts of parameters ({', '.join(split)})",
            cause=f"{name}'s update of a value depends on the others of its parameter: a part is stepped differently",
            alternatives=["AdamW, SGD or another optimizer that steps each value by itself", "--set pipeline=2",
                          "--set sharding=optimizer"],
            command=_COMMAND,
        )  # fmt: skip


def _check_flowing(strategy: Strategy) -> None:
    """A pipeline that is not emptied runs backwards with other parameters than the newest ones."""
    if strategy.pipeline is None or strategy.pipeline.schedule != "asynchronous":
        return
    reasons = {
        "sharding = parameters": (
            strategy.sharding == "parameters",
            "parameters in shards are put together from their newest shards, also for the backward of earlier ones",
        ),
        "recompute": (bool(strategy.recompute), "activations would be computed again with newer parameters"),
        "expert": (strategy.mesh.ep > 1, "experts on other data ranks would be updated while tokens are under way"),
        "context": (strategy.mesh.cp > 1, "keys and values go round between workers in forwards of different steps"),
    }
    for name, (is_there, cause) in reasons.items():
        if is_there:
            raise PlanError(
                f"schedule asynchronous with {name}",
                cause=cause,
                alternatives=["--set schedule=1f1b", f"without {name}"],
                command=_COMMAND,
            )


def _axes(mesh: Mesh) -> str:
    degrees = (("pipeline", mesh.pp), ("context", mesh.cp), ("expert", mesh.ep), ("tensor", mesh.tp))
    return ", ".join(f"{name} = {degree}" for name, degree in degrees if degree > 1)
