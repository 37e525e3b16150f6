"""Embedding and cross-entropy over a vocabulary of which every worker has a range.

Source: Shoeybi et al. 2019, Megatron-LM, section 3 (arXiv:1909.08053).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.parallel.program import Target
from meshwright.parallel.tensor._communicator import Communicator

_NONE, _MEAN = 0, 1


class VocabularyEmbedding(Target):
    """Looks up the rows that this worker has, and gives zeros for all others: partial sums.

    Args:
        communicator: of the axis.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("vocabulary_embedding")
        self._coordinate = communicator.coordinate

    def __call__(self, weight: Tensor, indices: Tensor, padding_idx: int = -1) -> Tensor:
        """Rows of the whole table, where they are here.

        Args:
            weight: this worker's rows.
            indices: into the whole table.
            padding_idx: row of the whole table that gets no gradient; -1: none.
        """
        start = self._coordinate * weight.shape[0]
        local = indices - start
        elsewhere = (local < 0) | (local >= weight.shape[0])
        padding = padding_idx - start if 0 <= padding_idx - start < weight.shape[0] else None
        rows = F.embedding(local.masked_fill(elsewhere, 0), weight, padding if padding_idx >= 0 else None)
        return rows.masked_fill(elsewhere.unsqueeze(-1), 0)


class RangeCrossEntropy(Target):
    """Cross-entropy of logits (n, classes) split by class; the logits of other workers are never seen.

    Each worker gives the maximum m, the sum of exponentials above it, the target's logit if it has it, and the sum of
    its logits: one exchange of four numbers per row.

    Args:
        communicator: of the axis.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__("range_cross_entropy")
        self.communicator = communicator

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        weight: None = None,
        reduction: int = _MEAN,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """What `cross_entropy_loss` gives for the logits of all workers; arguments as there."""
        assert weight is None
        losses = _RangeLosses.apply(logits, target, ignore_index, label_smoothing, self.communicator)  # pyrefly: ignore
        if reduction == _NONE:
            return losses
        total = losses.sum()
        return total / (target != ignore_index).sum() if reduction == _MEAN else total


class _RangeLosses(torch.autograd.Function):
    """A loss per row; zero where the target is ignored."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, communicator: Communicator
    ) -> Tensor:
        compute = logits.double() if logits.dtype == torch.float64 else logits.float()
        width = logits.shape[1]
        local = target - communicator.coordinate * width
        here = (local >= 0) & (local < width)
        local = local.masked_fill(~here, 0)
        highest = compute.max(dim=1).values
        exponentials = (compute - highest.unsqueeze(1)).exp_().sum(dim=1)
        picked = compute.gather(1, local.unsqueeze(1)).squeeze(1).masked_fill(~here, 0)
        sums = compute.sum(dim=1) if smoothing else torch.zeros_like(picked)
        gathered = communicator.all_gather(torch.stack([highest, exponentials, picked, sums]))
        top = gathered[:, 0].max(dim=0).values
        normaliser = top + ((gathered[:, 0] - top).exp() * gathered[:, 1]).sum(dim=0).log()
        classes = width * communicator.size
        mean_logit = gathered[:, 3].sum(dim=0) / classes
        losses = normaliser - (1 - smoothing) * gathered[:, 2].sum(dim=0) - smoothing * mean_logit
        ignored = target == ignore_index
        ctx.save_for_backward(logits, normaliser, local, here & ~ignored, ignored)
        ctx.smoothing, ctx.classes = smoothing, classes
        return losses.masked_fill(ignored, 0).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        logits, normaliser, local, here, ignored = ctx.saved_tensors
        slope = (logits.to(normaliser.dtype) - normaliser.unsqueeze(1)).exp_()
        if ctx.smoothing:
            slope -= ctx.smoothing / ctx.classes
        target = here.to(slope.dtype).unsqueeze(1) * (ctx.smoothing - 1)
        slope.scatter_add_(1, local.unsqueeze(1), target)
        slope *= gradients[0].masked_fill(ignored, 0).to(slope.dtype).unsqueeze(1)
        return slope.to(logits.dtype), None, None, None, None


class RowMeanCrossEntropy(Target):
    """The mean over the rows of all workers, of which each has some: partial sums.

    Args:
        function: `cross_entropy_loss`.
        communicator: of the axis.
    """

    def __init__(self, function: Callable[..., Tensor], communicator: Communicator) -> None:
        super().__init__("row_mean_cross_entropy")
        self._function = function
        self._communicator = communicator

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        weight: None = None,
        reduction: int = _MEAN,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The sum over this worker's rows, divided by the number of all rows that count."""
        assert reduction == _MEAN
        count = self._communicator.all_reduce((target != ignore_index).sum())
        return self._function(logits, target, weight, 2, ignore_index, label_smoothing) / count
