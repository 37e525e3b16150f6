"""In which data type products are computed, where the user allowed another than the written one."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import torch

from meshwright.cost import Allowance, Precision
from meshwright.errors import PlanError

_ALREADY = ("as_written", "float32")


def precision_applied(
    precision: Precision, *, device: str = "cpu", allow: Collection[Allowance] = ()
) -> AbstractContextManager:
    """A context in which torch's autocast computes products in `precision.compute`; parameters stay as written.

    Args:
        precision: what the strategy says.
        device: torch's device type.
        allow: the departures from the written mathematics that the user allowed.

    Raises:
        PlanError: the user did not allow it, the data type needs loss scaling, or torch has no such type.
    """
    _check_storage(precision)
    lower = next((item for item in (precision.compute, precision.reduction) if item not in _ALREADY), None)
    if lower is None:
        return nullcontext()
    if "precision" not in allow:
        what = f"computes in {lower}" if lower == precision.compute else f"sends gradients in {lower}"
        raise PlanError(
            f"the plan {what}, but lower precision was not allowed",
            cause="it changes the mathematics, and what changes the mathematics is allowed by name only",
            alternatives=('allow it: mw.parallel(…, allow={"precision"})', "plan again without it"),
            command="meshwright plan SCRIPT",
        )
    if precision.compute in _ALREADY:
        return nullcontext()
    if precision.compute != "bfloat16":
        raise PlanError(
            f"compute in {precision.compute} is not offered",
            cause="float16 loses small gradients unless the loss is scaled, and torch's autocast knows no other types",
            alternatives=("bfloat16, which has float32's range", "as_written"),
            command="meshwright plan SCRIPT",
        )
    return torch.autocast(device, dtype=torch.bfloat16)


def _check_storage(precision: Precision) -> None:
    if precision.parameters not in _ALREADY:
        raise PlanError(
            f"the plan keeps parameters in {precision.parameters}",
            cause="only the data types of compute and of the gradients' exchange can be changed",
            alternatives=("parameters = as_written",),
            command="meshwright plan SCRIPT",
        )
    if precision.reduction not in (*_ALREADY, "bfloat16", "float16"):
        raise PlanError(
            f"the plan sends gradients in {precision.reduction}",
            cause="they travel in float32, bfloat16 or float16",
            alternatives=("reduction = bfloat16", "reduction = as_written"),
            command="meshwright plan SCRIPT",
        )
