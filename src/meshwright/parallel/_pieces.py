"""Whole tensors put together from the pieces that workers hold, one tensor at a time, on worker 0.

Every worker says which pieces it has; all of them then know who sends which. A piece that several workers hold is sent
by the first of them, so that what is split travels once, and what is replicated not at all where worker 0 has it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Span:
    """Which part of a dim a piece is.

    Args:
        dim: the dim that is split.
        groups: how many equally long ranges of the dim are split one by one.
        index: which part of each range, from 0.
    """

    dim: int
    groups: int = 1
    index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What a worker holds of a tensor.

    Args:
        name: of the tensor.
        tensor: the piece, without gradient.
        spans: splits that lead to it, the first split first; none: it is the whole.
    """

    name: str
    tensor: Tensor
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Described:
    """A piece as other workers know it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    spans: tuple[Span, ...]
    rank: int


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a sharded tensor; any other as it is. Found out without loading torch's sharded tensors."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def collected(pieces: Iterable[Piece], group: dist.ProcessGroup | None) -> Iterator[tuple[str, Tensor]]:
    """On worker 0 the whole tensors by name, on the host; on the others nothing, but they have to iterate too.

    Args:
        pieces: what this worker holds; names in the same order on all that have them.
        group: the workers that together hold everything; None: all there are.
    """
    own = {(piece.name, piece.spans): piece.tensor for piece in pieces}
    rank, members = dist.get_rank(group), dist.get_process_group_ranks(group)
    for name, chosen in _chosen(own, rank, group):
        received: list[tuple[tuple[Span, ...], Tensor]] = []
        for piece in chosen:
            if rank == 0:
                received.append((piece.spans, _received(piece, own, source=members[piece.rank], group=group)))
            elif rank == piece.rank:
                dist.send(own[name, piece.spans].detach().cpu().contiguous(), dst=members[0], group=group)
        if rank == 0:
            yield name, assembled(received)


def everywhere(pieces: Iterable[Piece], group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Copies of the whole tensors by name on every worker, on the device of this worker's pieces."""
    held = list(pieces)
    device = held[0].tensor.device if held else torch.device("cpu")
    whole = dict(collected(held, group))
    described: list[Any] = [[(name, tensor.shape, tensor.dtype) for name, tensor in whole.items()]]
    source = dist.get_process_group_ranks(group)[0]
    dist.broadcast_object_list(described, src=source, group=group)
    for name, shape, dtype in described[0]:
        tensor = whole[name] if name in whole else torch.empty(shape, dtype=dtype)
        dist.broadcast(tensor, src=source, group=group)
        whole[name] = tensor.to(device, copy=name in whole)
    return whole


def assembled(pieces: Sequence[tuple[tuple[Span, ...], Tensor]]) -> Tensor:
    """One tensor from all its pieces."""
    if not pieces[0][0]:
        return pieces[0][1]
    ordered = sorted(pieces, key=lambda piece: piece[0])
    outer = ordered[0][0][0]
    parts = [
        assembled([(spans[1:], tensor) for spans, tensor in same])
        for _, same in groupby(ordered, key=lambda piece: piece[0][0].index)
    ]
    ranges = [part.chunk(outer.groups, dim=outer.dim) if outer.groups > 1 else (part,) for part in parts]
    return torch.cat([piece for each in zip(*ranges, strict=True) for piece in each], dim=outer.dim)


def taken(
    whole: Tensor, spans: Sequence[Span], everyones: Sequence[tuple[tuple[Span, ...], tuple[int, ...]]]
) -> Tensor:
    """One piece of a whole tensor.

    Args:
        whole: what `assembled` gave, or something of that shape.
        spans: of the piece.
        everyones: spans and shapes of all pieces.
    """
    if not spans:
        return whole
    first = spans[0]
    lengths = []
    for index in sorted({others[0].index for others, _ in everyones}):
        same = [(others[1:], shape) for others, shape in everyones if others[0].index == index]
        shapes = {others: torch.empty(shape, device="meta") for others, shape in same}
        lengths.append(assembled(list(shapes.items())).shape[first.dim] // first.groups)
    ranges = whole.chunk(first.groups, dim=first.dim) if first.groups > 1 else (whole,)
    part = torch.cat([each.split(lengths, dim=first.dim)[first.index] for each in ranges], dim=first.dim)
    deeper = [(others[1:], shape) for others, shape in everyones if others[0].index == first.index]
    return taken(part, spans[1:], deeper)


def _chosen(
    own: Mapping[tuple[str, tuple[Span, ...]], Tensor], rank: int, group: dist.ProcessGroup | None
) -> Iterator[tuple[str, list[_Described]]]:
    """Every tensor's name with the pieces that are sent, in an order that all workers agree on."""
    described = [
        _Described(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype, spans=spans, rank=rank)
        for (name, spans), tensor in own.items()
    ]
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, described, group=group)
    first: dict[str, dict[tuple[Span, ...], _Described]] = {}
    for piece in (piece for each in everyone for piece in each):
        first.setdefault(piece.name, {}).setdefault(piece.spans, piece)
    for name, pieces in first.items():
        yield name, list(pieces.values())


def _received(
    piece: _Described,
    own: Mapping[tuple[str, tuple[Span, ...]], Tensor],
    *,
    source: int,
    group: dist.ProcessGroup | None,
) -> Tensor:
    if piece.rank == 0:
        return own[piece.name, piece.spans].detach().cpu()
    tensor = torch.empty(piece.shape, dtype=piece.dtype)
    dist.recv(tensor, src=source, group=group)
    return tensor
