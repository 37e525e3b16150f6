"""How far two sets of named tensors are apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """A distance relative to a norm.

    Args:
        whole: ‖difference of all‖ / scale.
        worst: name of the tensor that differs most.
        worst_value: ‖its difference‖ / scale.
    """

    whole: float
    worst: str
    worst_value: float


def distance(values: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None], *, scale: float) -> Distance:
    """How far `values` are from `reference`; a tensor that is missing on one side counts as zero.

    Args:
        scale: the norm that distances are relative to; where it is 0, so is `reference`, and 1 is taken.
    """
    own = {name: norm(difference(values.get(name), reference.get(name))) for name in {*values, *reference}}
    worst = max(own, key=lambda name: own[name], default="")
    divisor = scale or 1.0
    return Distance(
        whole=sum(value**2 for value in own.values()) ** 0.5 / divisor,
        worst=worst,
        worst_value=own.get(worst, 0.0) / divisor,
    )


def norm(value: Tensor | None) -> float:
    """Euclidean norm, summed in float64; 0 for None."""
    return 0.0 if value is None else torch.linalg.vector_norm(value.detach().cpu().double()).item()


def whole_norm(values: Mapping[str, Tensor | None]) -> float:
    """Euclidean norm of all tensors as one vector."""
    return sum(norm(value) ** 2 for value in values.values()) ** 0.5


def difference(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """One minus the other in float64 on the host; None where both are."""
    if one is None or other is None:
        return one if other is None else other
    return one.detach().cpu().double() - other.detach().cpu().double()
