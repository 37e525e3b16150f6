"""Values in the data type that they travel in."""

import torch
from torch import Tensor

# bfloat16 ends where float32 does; of float16 more than this would be infinite.
LARGEST = {torch.float16: 65504.0}


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values rounded to a data type, the largest it has where they are larger; themselves where they have it."""
    if values.dtype == dtype:
        return values
    return within(values, dtype).to(dtype)


def within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values that a data type has."""
    return values.clamp(-LARGEST[dtype], LARGEST[dtype]) if dtype in LARGEST else values


def wide(dtype: torch.dtype) -> torch.dtype:
    """What values of a data type are summed in: at least float32, integers as they are."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
