"""Attention over a split sequence: keys and values go round the ring of workers while each keeps its queries."""

import math
from typing import Any

import torch
from torch import Tensor

from meshwright.parallel.context._block import attended, gradients, merged
from meshwright.parallel.program import Target
from meshwright.parallel.tensor import Communicator, Split
from meshwright.parallel.tensor._parts import part_of


class RingAttention(Target):
    """`scaled_dot_product_attention` on this worker's positions; a target of nodes of a graph.

    Each worker's positions are `split`; with several ranges the later ones of a causal sequence, which see more keys,
    are spread over the workers.

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
        repeats = query.shape[-3] // key.shape[-3]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        return _Ring.apply(self, is_causal, factor, query, key, value, attn_mask)  # pyrefly: ignore

    def owners(self) -> list[int]:
        """Whose keys are here after each rotation, this worker's first."""
        size = self.communicator.size
        return [(self.communicator.coordinate - turn) % size for turn in range(size)]

    def bias(self, owner: int, length: int, mask: Tensor | None, *, causal: bool, like: Tensor) -> Tensor | None:
        """What hides keys of an owner from this worker's queries; None where nothing does.

        Args:
            owner: coordinate of the worker whose keys they are.
            length: of the whole sequence.
            mask: this worker's rows of the user's mask, all columns.
            causal: whether later keys are hidden.
            like: for device and data type.
        """
        columns = self._positions(owner, length, like.device)
        bias = None
        if mask is not None:
            part = mask.index_select(-1, columns) if mask.shape[-1] > 1 else mask
            hidden = torch.zeros_like(part, dtype=like.dtype).masked_fill(part.logical_not(), float("-inf"))
            bias = hidden if part.dtype is torch.bool else part
        if causal:
            rows = self._positions(self.communicator.coordinate, length, like.device)
            later = columns > rows.unsqueeze(-1)
            if later.any():
                hidden = torch.zeros(later.shape, dtype=like.dtype, device=like.device)
                hidden = hidden.masked_fill(later, float("-inf"))
                bias = hidden if bias is None else bias + hidden
        return bias

    def add_columns(self, of_mask: Tensor, of_scores: Tensor, owner: int, length: int) -> None:
        """Adds the gradient of a block's scores to that of the mask, which was broadcast to them."""
        if of_mask.shape[-1] == 1:
            of_mask += of_scores.sum_to_size(of_mask.shape)
            return
        shape = (*of_mask.shape[:-1], of_scores.shape[-1])
        of_mask.index_add_(-1, self._positions(owner, length, of_mask.device), of_scores.sum_to_size(shape))

    def _positions(self, owner: int, length: int, device: torch.device) -> Tensor:
        whole = torch.arange(length, device=device)
        return part_of(whole, Split(0, self.split.groups), coordinate=owner, degree=self.communicator.size)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ring: RingAttention, causal: bool, scale: float, query: Tensor, key: Tensor, value: Tensor, mask: Any
    ) -> Tensor:
        length = key.shape[-2] * ring.communicator.size
        output = torch.zeros_like(query[..., :1]).expand(*query.shape[:-1], value.shape[-1])
        log_sum = query.new_full(query.shape[:-1], float("-inf"))
        packet = _packed(key, value)
        for turn, owner in enumerate(ring.owners()):
            rotation = ring.communicator.rotate(packet) if turn + 1 < ring.communicator.size else None
            theirs, values = _unpacked(packet, key, value)
            bias = ring.bias(owner, length, mask, causal=causal, like=query)
            block = attended(query, theirs, values, bias, scale)
            output, log_sum = merged(output, log_sum, *block)
            packet = rotation() if rotation is not None else packet
        ctx.ring, ctx.causal, ctx.scale = ring, causal, scale
        ctx.save_for_backward(query, key, value, mask, output, log_sum)
        return output

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Any, ...]:
        query, key, value, mask, output, log_sum = ctx.saved_tensors
        ring, gradient = ctx.ring, incoming[0]
        length = key.shape[-2] * ring.communicator.size
        shared = (output * gradient).sum(-1)
        of_query = torch.zeros_like(query)
        of_mask = torch.zeros_like(mask) if ctx.needs_input_grad[6] else None
        packet = _packed(key, value)
        # gradients of keys and values travel with them, and are home after a whole round
        sums = torch.zeros_like(packet)
        for owner in ring.owners():
            rotation = ring.communicator.rotate(packet)
            theirs, values = _unpacked(packet, key, value)
            bias = ring.bias(owner, length, mask, causal=ctx.causal, like=query)
            added_query, added_key, added_value, of_scores = gradients(
                query, theirs, values, bias, ctx.scale, log_sum=log_sum, gradient=gradient, shared=shared
            )
            of_query += added_query
            if of_mask is not None:
                ring.add_columns(of_mask, of_scores, owner, length)
            sums += _packed(added_key, added_value)
            packet = rotation()
            sums = ring.communicator.rotate(sums)()
        of_key, of_value = _unpacked(sums, key, value)
        return None, None, None, of_query, of_key, of_value, of_mask


def _packed(key: Tensor, value: Tensor) -> Tensor:
    return torch.cat([key.reshape(-1), value.reshape(-1)])


def _unpacked(packet: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = packet.split([key.numel(), value.numel()])
    return keys.view(key.shape), values.view(value.shape)
