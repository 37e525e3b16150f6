"""Attention over a split sequence: keys and values go round the ring of workers while each keeps its queries.

Causal attention is computed on balanced halves, and of each block only what a query sees.
"""

import math
from typing import Any

import torch
from torch import Tensor

from meshwright.parallel.context._arrangement import Arrangement, Unmoved
from meshwright.parallel.context._block import Bias, Whole, attended, gradients, gradients_with_scores, merged
from meshwright.parallel.context._mirrored import Mirrored
from meshwright.parallel.context._sight import Sight, sight
from meshwright.parallel.program import Target
from meshwright.parallel.tensor import Communicator, Split


class RingAttention(Target):
    """`scaled_dot_product_attention` on this worker's positions; a target of nodes of a graph.

    Each worker's positions are `split`.

    Args:
        communicator: of the axis.
        split: of the positions.
    """

    def __init__(self, communicator: Communicator, split: Split) -> None:
        super().__init__("ring_attention")
        self.communicator = communicator
        self.split = split

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of this worker's queries to all keys."""
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        balanced = is_causal and attn_mask is None and self.split.groups == 1 and query.shape[-2] % 2 == 0
        size, length = self.communicator.size, query.shape[-2] * self.communicator.size
        arrangement = (
            Mirrored(self.communicator, length=length) if balanced else Unmoved(self.split, degree=size, length=length)
        )
        ring = _Course(self.communicator, arrangement, causal=is_causal)
        return _Ring.apply(ring, factor, query, key, value, attn_mask)  # pyrefly: ignore


class _Course:
    """What a worker meets on the way of keys and values round the ring."""

    def __init__(self, communicator: Communicator, arrangement: Arrangement, *, causal: bool) -> None:
        self.communicator = communicator
        self.arrangement = arrangement
        self._causal = causal

    def owners(self) -> list[int]:
        """Whose keys are here after each rotation, this worker's first."""
        size = self.communicator.size
        return [(self.communicator.coordinate - turn) % size for turn in range(size)]

    def sight(self, owner: int) -> Sight | None:
        """What this worker's queries see of an owner's keys."""
        if not self._causal:
            return Sight(rows=slice(None), columns=slice(None), order="all")
        return sight(self._positions(self.communicator.coordinate), self._positions(owner))

    def bias(self, owner: int, seen: Sight, mask: Tensor | None, *, like: Tensor) -> Bias:
        """What is added to the scores of a block.

        Args:
            owner: coordinate of the worker whose keys they are.
            seen: of its keys.
            mask: this worker's rows of the user's mask, all columns.
            like: for device and data type.
        """
        if mask is not None:
            part = mask.index_select(-1, self._positions(owner).to(mask.device)) if mask.shape[-1] > 1 else mask
            if part.dtype is not torch.bool:
                return part
            return torch.zeros_like(part, dtype=like.dtype).masked_fill(part.logical_not(), float("-inf"))
        if seen.order != "some":
            return None if seen.order == "all" else "lower"
        rows = self._positions(self.communicator.coordinate)[seen.rows]
        later = self._positions(owner)[seen.columns] > rows.unsqueeze(-1)
        return torch.zeros(later.shape, dtype=like.dtype).masked_fill(later, float("-inf")).to(like.device)

    def add_columns(self, of_mask: Tensor, of_scores: Tensor, owner: int) -> None:
        """Adds the gradient of a block's scores to that of the mask, which was broadcast to them."""
        if of_mask.shape[-1] == 1:
            of_mask += of_scores.sum_to_size(of_mask.shape)
            return
        shape = (*of_mask.shape[:-1], of_scores.shape[-1])
        of_mask.index_add_(-1, self._positions(owner).to(of_mask.device), of_scores.sum_to_size(shape))

    def _positions(self, owner: int) -> Tensor:
        return self.arrangement.positions(owner)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, course: _Course, scale: float, query: Tensor, key: Tensor, value: Tensor, mask: Any
    ) -> Tensor:
        query, key, value = course.arrangement.taken((query, key, value))
        packet = _packed(key, value)
        output = log_sum = torch.empty(0)
        for turn, owner in enumerate(course.owners()):
            rotation = course.communicator.rotate(packet) if turn + 1 < course.communicator.size else None
            theirs, values = _unpacked(packet, key, value)
            if seen := course.sight(owner):
                rows, columns = (..., seen.rows, slice(None)), (..., seen.columns, slice(None))
                bias = course.bias(owner, seen, mask, like=query)
                keys, values = _for_heads(query, theirs[columns], values[columns])
                block, sums = attended(query[rows], keys, values, bias, scale)
                if turn:
                    of_rows = (..., seen.rows)
                    output[rows], log_sum[of_rows] = merged(output[rows], log_sum[of_rows], block, sums)
                else:
                    output, log_sum = block.to(sums.dtype), sums
            packet = rotation() if rotation is not None else packet
        output = output.to(query.dtype)
        ctx.course, ctx.scale = course, scale
        ctx.save_for_backward(query, key, value, mask, output, log_sum)
        return course.arrangement.returned((output,))[0]

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Any, ...]:
        query, key, value, mask, output, log_sum = ctx.saved_tensors
        course = ctx.course
        (gradient,) = course.arrangement.taken(incoming)
        of_query = torch.zeros_like(query)
        of_mask = torch.zeros_like(mask) if ctx.needs_input_grad[5] else None
        packet = _packed(key, value)
        # gradients of keys and values travel with them, and are home after a whole round
        sums = torch.zeros_like(packet)
        for owner in course.owners():
            rotation = course.communicator.rotate(packet)
            theirs, values = _unpacked(packet, key, value)
            if seen := course.sight(owner):
                rows, columns = (..., seen.rows, slice(None)), (..., seen.columns, slice(None))
                keys, values = _for_heads(query, theirs[columns], values[columns])
                block = (query[rows], keys, values, course.bias(owner, seen, mask, like=query))
                whole = Whole(output=output[rows], log_sum=log_sum[..., seen.rows], gradient=gradient[rows])
                if of_mask is None:
                    added = gradients(*block, ctx.scale, whole=whole)
                else:
                    *added, of_scores = gradients_with_scores(*block, ctx.scale, whole=whole)
                    course.add_columns(of_mask, of_scores, owner)
                of_query[rows] += added[0]
                of_keys, of_values = _unpacked(sums, key, value)
                of_keys[columns] += _of_heads(added[1], key)
                of_values[columns] += _of_heads(added[2], value)
            packet = rotation()
            sums = course.communicator.rotate(sums)()
        of_inputs = course.arrangement.returned((of_query, *_unpacked(sums, key, value)))
        return None, None, *of_inputs, of_mask


def _packed(key: Tensor, value: Tensor) -> Tensor:
    return torch.cat([key.reshape(-1), value.reshape(-1)])


def _unpacked(packet: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = packet.split([key.numel(), value.numel()])
    return keys.view(key.shape), values.view(value.shape)


def _for_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values for every head of the queries; what goes round has its own fewer heads."""
    repeats = query.shape[-3] // key.shape[-3]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)


def _of_heads(gradient: Tensor, like: Tensor) -> Tensor:
    """The other way round: gradients of the query heads that share a key head, summed."""
    if gradient.shape[-3] == like.shape[-3]:
        return gradient
    return gradient.unflatten(-3, (like.shape[-3], -1)).sum(-3)
