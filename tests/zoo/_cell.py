"""One cell of the support table: what `verify` says, in a worker process."""

import contextlib
import io
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from meshwright.cost import Mesh
from meshwright.errors import MeshwrightError
from meshwright.parallel.program import capture_program
from meshwright.parallel.tensor import choose_placements
from meshwright.run import verify
from zoo._methods import COMBINATIONS, METHODS
from zoo._zoo_model import Loss

Verdict = Literal["equal", "declined", "different", "failed"]
STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What came of a model under a method.

    Args:
        verdict: equal to one device; declined with a reason before the first step; anything else is an error.
        distance: largest of loss and gradient, relative.
        reason: of a refusal or an error.
        split: part of the model's parameters of which each worker holds a part, under tensor parallelism alone.
    """

    verdict: Verdict
    distance: float = 0.0
    reason: str = ""
    split: float | None = None


def run_cell(model_name: str, method_name: str) -> Cell:
    """Trains 2 steps under a method and on one device, through the product's own `verify`.

    Every worker calls it.
    """
    from zoo import zoo_model

    method = next(method for method in (*METHODS, *COMBINATIONS) if method.name == method_name)
    entry = zoo_model(model_name)
    model, loss, batch = entry.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            found = verify(
                model, optimizer, loss, [batch] * STEPS, plan=method.strategy(model), steps=STEPS, dtype=entry.dtype
            )
        except MeshwrightError as error:
            return Cell(verdict="declined", reason=_short(error))
        finally:
            dist.barrier()
    distance = max(found.loss, found.gradient)
    if found.equal:
        split = _split(*entry.make()) if method.mesh == Mesh(tp=2) else None
        return Cell(verdict="equal", distance=distance, split=split)
    reason = (
        f"loss off by {found.loss:.1e}, gradient by {found.gradient:.1e} (worst: {found.worst_gradient}), "
        f"parameters by {found.parameters:.1e}"
    )
    return Cell(verdict="different", distance=distance, reason=reason)


def _split(model: nn.Module, loss: Loss, batch: Any) -> float:
    """Part of the parameters that the product splits over two workers."""
    program = capture_program(model, loss, batch)
    split = {placement.parameter for placement in choose_placements(program, degree=2).placements}
    sizes = {name: parameter.numel() for name, parameter in program.parameters.items()}
    return round(sum(size for name, size in sizes.items() if name in split) / sum(sizes.values()), 4)


def _short(error: MeshwrightError) -> str:
    """Fact and cause without places on this machine."""
    text = f"{error.fact}; {error.cause}" if error.cause else error.fact
    return re.sub(r"[^\s]*site-packages/", "", " ".join(text.split()))
