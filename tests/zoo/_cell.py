"""One cell of the support table: what `verify` says, in a worker process."""

import contextlib
import io
import re
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from meshwright.errors import MeshwrightError
from meshwright.run import verify
from zoo._methods import METHODS

Verdict = Literal["equal", "declined", "different", "failed"]
STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What came of a model under a method.

    Args:
        verdict: equal to one device; declined with a reason before the first step; anything else is an error.
        distance: largest of loss and gradient, relative.
        reason: of a refusal or an error.
    """

    verdict: Verdict
    distance: float = 0.0
    reason: str = ""


def run_cell(model_name: str, method_name: str) -> Cell:
    """Trains 2 steps under a method and on one device, through the product's own `verify`.

    Every worker calls it.
    """
    from zoo import zoo_model

    method = next(method for method in METHODS if method.name == method_name)
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
        return Cell(verdict="equal", distance=distance)
    reason = (
        f"loss off by {found.loss:.1e}, gradient by {found.gradient:.1e} (worst: {found.worst_gradient}), "
        f"parameters by {found.parameters:.1e}"
    )
    return Cell(verdict="different", distance=distance, reason=reason)


def _short(error: MeshwrightError) -> str:
    """Fact and cause without places on this machine."""
    text = f"{error.fact}; {error.cause}" if error.cause else error.fact
    return re.sub(r"[^\s]*site-packages/", "", " ".join(text.split()))
