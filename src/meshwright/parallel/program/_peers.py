"""Workers that find something out together about one model: each about its share of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """The workers of one model.

    Args:
        group: all of them, in the order of their numbers; None: this worker alone.
        alike: numbers of those that have micro-batches like this one's, itself included, in order.
        number: of this worker.
    """

    group: dist.ProcessGroup | None = None
    alike: Sequence[int] = field(default=(0,))
    number: int = 0

    def share(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Names of this worker's share: those alike have about equally many bytes, and together everything."""
        loads = dict.fromkeys(self.alike, 0)
        own = []
        for name in sorted(tensors, key=lambda name: -tensors[name].nbytes):
            lightest = min(loads, key=lambda number: loads[number])
            loads[lightest] += tensors[name].nbytes
            if lightest == self.number:
                own.append(name)
        return own

    def all(self, found: Any) -> list[Any]:
        """What everybody found, of all workers, whatever their micro-batches."""
        if self.group is None:
            return [found]
        gathered: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(gathered, found, group=self.group)
        return gathered


ALONE = Peers()


def peers_of(group: dist.ProcessGroup | None, kind: str) -> Peers:
    """Finds out who is alike; all workers of the group call it at the same time.

    Args:
        group: the workers; None: this one alone.
        kind: equal where micro-batches are alike.
    """
    if group is None:
        return ALONE
    kinds = Peers(group=group).all(kind)
    number = dist.get_rank(group)
    return Peers(group=group, number=number, alike=tuple(n for n, other in enumerate(kinds) if other == kind))
