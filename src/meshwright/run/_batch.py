"""A global batch cut into shares for workers, and a share into micro-batches.

The examples of a batch lie along the leading dim of its tensors, arrays and lists, whatever nesting of dicts, tuples
and dataclasses holds them; everything else goes to every worker whole. Slices are views: nothing is copied.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from meshwright.cost import Batch
from meshwright.graph.capture_batch import leaves, mapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A micro-batch.

    Args:
        batch: in the user's structure.
        examples: how many of its examples count; 0 for a stand-in that only joins the collectives.
    """

    batch: Any
    examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one worker computes of a global batch.

    Args:
        parts: micro-batches, equally many on every worker.
        size: examples of the global batch.
    """

    parts: tuple[Part, ...]
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What a worker holds of a global batch.

    Args:
        batch: the examples, in the user's structure.
        length: how many they are.
        start: the first that counts for this worker.
        count: how many do.
        size: examples of the global batch.
    """

    batch: Any
    length: int
    start: int
    count: int
    size: int


def bounds(size: int, weights: Sequence[int]) -> list[int]:
    """Where shares begin and end: `floor(size · cumulated weight / total weight)`.

    Args:
        size: examples to share out.
        weights: relative share of each receiver.

    Returns:
        One more number than weights, from 0 to `size`.
    """
    total = sum(weights)
    ends, cumulated = [0], 0
    for weight in weights:
        cumulated += weight
        ends.append(size * cumulated // total)
    return ends


def whole(batch: Any, *, size: int, plan: Batch, rank: int) -> Held:
    """A global batch that every worker holds whole.

    Args:
        size: its number of examples.
        plan: the shares.
        rank: of this worker.
    """
    ends = bounds(size, plan.shares)
    return Held(batch=batch, length=size, start=ends[rank], count=ends[rank + 1] - ends[rank], size=size)


def loaded(batch: Any, *, count: int, size: int) -> Held:
    """A share that its worker loaded alone; a stand-in of one example where `count` is 0."""
    return Held(batch=batch, length=max(count, 1), start=0, count=count, size=size)


def cut(held: Held, plan: Batch, *, stand_in: slice) -> Share:
    """A worker's micro-batches.

    Args:
        held: what it holds.
        plan: shares and accumulation.
        stand_in: which examples a part without any computes with, to join the collectives.
    """
    ends = bounds(held.size, plan.shares)
    most = max(end - start for start, end in itertools.pairwise(ends))
    pieces = min(plan.accumulation, most)
    if pieces == 1 and held.count == held.length:
        return Share(parts=(Part(batch=held.batch, examples=held.count),), size=held.size)
    cuts = bounds(held.count, (1,) * pieces)
    parts = []
    for low, high in itertools.pairwise(cuts):
        where = slice(held.start + low, held.start + high) if high > low else stand_in
        parts.append(Part(batch=examples_of(held.batch, where, held.length), examples=high - low))
    return Share(parts=tuple(parts), size=held.size)


def examples_of(batch: Any, where: slice, size: int) -> Any:
    """The same structure with some of the examples.

    Args:
        batch: of `size` examples.
        where: which examples.
        size: tells what is per example from what is not.
    """
    return mapped(batch, lambda leaf: leaf[where] if _length(leaf) == size else leaf)


def is_empty(batch: Any) -> bool:
    """Whether a batch has tensors or arrays, and not one example in them."""
    arrays = [leaf for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor | numpy.ndarray) and leaf.ndim]
    return bool(arrays) and not any(len(array) for array in arrays)


def _length(leaf: Any) -> int | None:
    if isinstance(leaf, torch.Tensor | numpy.ndarray):
        return leaf.shape[0] if leaf.ndim else None
    return len(leaf) if isinstance(leaf, tuple | list) else None
