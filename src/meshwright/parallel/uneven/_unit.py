"""Parameters that are gathered together: of a block, or of what lies between blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.parallel.uneven._parts import Parts
from meshwright.parallel.uneven._rows import cuts


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cut:
    """A parameter cut into rows.

    Args:
        name: the user's.
        whole: what modules compute with while it is gathered; it has no memory otherwise.
        shard: this worker's rows, which the optimizer steps.
        borders: where the workers' rows begin, and where the last one's end.
        places: modules that have the parameter, with its name there.
    """

    name: str
    whole: nn.Parameter
    shard: nn.Parameter
    borders: tuple[int, ...]
    places: tuple[tuple[nn.Module, str], ...]

    def rows(self, tensor: Tensor, rank: int) -> Tensor:
        """A worker's rows of a tensor of the whole parameter's shape, flat."""
        return tensor[self.borders[rank] : self.borders[rank + 1]].reshape(-1)

    def numel(self, rank: int) -> int:
        """Values in a worker's rows."""
        length = self.borders[-1]
        return (self.borders[rank + 1] - self.borders[rank]) * (self.whole.numel() // length)


def cut(
    name: str, parameter: Tensor, places: Sequence[tuple[nn.Module, str]], *, shares: Sequence[int], rank: int
) -> Cut:
    """Cuts a parameter, of which this worker keeps its rows."""
    borders = tuple(cuts(parameter.shape[0], shares))
    rows = parameter.detach()[borders[rank] : borders[rank + 1]].clone(memory_format=torch.contiguous_format)
    trains = parameter.requires_grad
    whole = nn.Parameter(torch.empty_like(parameter.detach(), memory_format=torch.contiguous_format), trains)
    whole.untyped_storage().resize_(0)
    return Cut(name=name, whole=whole, shard=nn.Parameter(rows, trains), borders=borders, places=tuple(places))


class Unit:
    """Gathers parameters for the time in which they are computed with, and scatters their gradients.

    Args:
        cuts: the parameters.
        parts: what carries them.
        rank: of this worker among those that hold the shards.
        size: how many those are.

    Attributes:
        present: names of the parameters that got a gradient here since the last step.
        in_backward: whether a backward through the unit has begun and not ended.
    """

    def __init__(self, cuts: Sequence[Cut], parts: Parts, *, rank: int, size: int) -> None:
        self.cuts = tuple(cuts)
        self._parts, self._rank, self._size = parts, rank, size
        self._lanes = [[one for one in cuts if one.whole.dtype == dtype] for dtype in _dtypes(cuts)]
        self._under_way: list[tuple[list[Tensor], list[Any]]] | None = None
        self.present: set[str] = set()
        self.is_gathered = False
        self.in_backward = False

    @property
    def trains(self) -> bool:
        """Whether any of the parameters gets a gradient."""
        return any(one.whole.requires_grad for one in self.cuts)

    @torch.no_grad()
    def begin(self) -> None:
        """Starts to gather, where that has not been done."""
        if self.is_gathered or self._under_way is not None:
            return
        self._under_way = []
        for lane in self._lanes:
            parts = [self._flat(lane, rank) for rank in range(self._size)]
            torch.cat([one.shard.detach().view(-1) for one in lane], out=parts[self._rank])
            self._under_way.append((parts, self._parts.gather(parts)))

    @torch.no_grad()
    def gather(self) -> None:
        """Has the whole parameters in the modules."""
        self.begin()
        if self._under_way is not None:
            for lane, (parts, works) in zip(self._lanes, self._under_way, strict=True):
                for work in works:
                    work.wait()
                _fill(lane, parts)
        self._under_way, self.is_gathered = None, True
        self._put([one.whole for one in self.cuts])

    def drop(self) -> None:
        """Ends what was begun and is not needed."""
        for _, works in self._under_way or ():
            for work in works:
                work.wait()
        self._under_way = None

    def free(self) -> None:
        """Has the shards in the modules, and no memory for the whole parameters."""
        self._put([one.shard for one in self.cuts])
        for one in self.cuts:
            one.whole.untyped_storage().resize_(0)
        self.is_gathered = self.in_backward = False

    @torch.no_grad()
    def scatter(self) -> None:
        """Adds everybody's gradients to those of the shards; all workers call it, with gradients or without."""
        for lane in self._lanes:
            trained = [one for one in lane if one.whole.requires_grad]
            if not trained:
                continue
            parts = [self._flat(trained, rank) for rank in range(self._size)]
            for rank, part in enumerate(parts):
                places = part.split([one.numel(rank) for one in trained])
                for one, place in zip(trained, places, strict=True):
                    if one.whole.grad is None:
                        place.zero_()
                    else:
                        place.copy_(one.rows(one.whole.grad, rank))
            self.present.update(one.name for one in trained if one.whole.grad is not None)
            for one in trained:
                one.whole.grad = None
            self._parts.scatter(parts)
            self._add(trained, parts[self._rank])

    def _add(self, trained: Sequence[Cut], part: Tensor) -> None:
        for one, gradient in zip(trained, part.split([one.shard.numel() for one in trained]), strict=True):
            if one.shard.grad is None:
                one.shard.grad = gradient.view(one.shard.shape).clone()
            else:
                one.shard.grad += gradient.view(one.shard.shape)

    def _flat(self, lane: Sequence[Cut], rank: int) -> Tensor:
        """Memory for a worker's rows of some parameters."""
        return lane[0].shard.new_empty(sum(one.numel(rank) for one in lane))

    def _put(self, parameters: Sequence[nn.Parameter]) -> None:
        for one, parameter in zip(self.cuts, parameters, strict=True):
            for module, name in one.places:
                module._parameters[name] = parameter


def _fill(lane: Sequence[Cut], parts: Sequence[Tensor]) -> None:
    for one in lane:
        one.whole.untyped_storage().resize_(one.whole.numel() * one.whole.element_size())
    for rank, part in enumerate(parts):
        # through .data: autograd may have saved the parameters, and their values are the same as before
        pieces = [one.rows(one.whole.data, rank) for one in lane]
        torch._foreach_copy_(pieces, list(part.split([one.numel(rank) for one in lane])))


def _dtypes(cuts: Sequence[Cut]) -> list[torch.dtype]:
    return list(dict.fromkeys(one.whole.dtype for one in cuts))
