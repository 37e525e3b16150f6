"""A job and its batches in another data type."""

from typing import Any

import torch
from torch import Tensor

from meshwright.graph.capture_batch import mapped
from meshwright.run._job import Job


def cast_job(job: Job, dtype: torch.dtype) -> Job:
    """The job, whose parameters and optimizer state now have the data type."""
    job.model.to(dtype)
    for state in job.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
                state[name] = value.to(dtype)
    return job


def cast_batch(batch: Any, dtype: torch.dtype) -> Any:
    """The batch, whose tensors of floating-point numbers now have the data type."""
    return mapped(batch, lambda leaf: _cast_leaf(leaf, dtype))


def _cast_leaf(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
