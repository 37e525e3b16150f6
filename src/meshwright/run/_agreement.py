"""Whether all workers were given the same global batch; different ones would be averaged silently."""

from typing import Any

import torch
import torch.distributed as dist

from meshwright.errors import BatchError
from meshwright.graph.capture_batch import batch_size, leaves

SAMPLE = 4096


def is_checked(step: int) -> bool:
    """Whether the batch of a step (from 1) is compared: 1, 2, 4, 8, …, so that the cost vanishes."""
    return step & (step - 1) == 0


def check_agreement(batch: Any) -> None:
    """Compares size and a sum over the first values of the batch between all workers.

    Raises:
        BatchError: they differ.
    """
    own = torch.tensor([float(batch_size(batch)), _fingerprint(batch)], dtype=torch.float64)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    if all(torch.equal(other, everyone[0]) for other in everyone):
        return
    sizes = ", ".join(f"worker {rank}: {int(other[0])}" for rank, other in enumerate(everyone))
    raise BatchError(
        f"the workers were given different batches (examples: {sizes})",
        cause="each worker runs the script, and drew other examples: a generator without a common seed",
        alternatives=[
            "torch.manual_seed(…), random.seed(…) and numpy.random.seed(…) at the top of the script",
            "for batch in step.batches(loader): one worker draws, and each loads only its share",
        ],
    )


def _fingerprint(batch: Any) -> float:
    for _, leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.numel():
            values = leaf.detach().reshape(-1)[:SAMPLE].double().cpu()
            weights = torch.arange(1, len(values) + 1, dtype=torch.float64)
            return float((values * weights).nan_to_num().sum())
    return 0.0
