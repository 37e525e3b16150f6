"""The user's loader, of which each worker loads only its share.

A map-style `DataLoader` is made anew with a sampler that keeps one share of every global batch; rank 0 alone draws the
order and tells the others, so that it is the order of the one-device program whatever the sampler does. Anything else
(an iterable dataset, a list, a generator) is read whole by every worker, and `step` takes its share of each batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from meshwright.cost import Batch
from meshwright.errors import UsageError
from meshwright.run._batch import bounds

FIRST_CHUNK = 8
LARGEST_CHUNK = 256

Expect = Callable[[Any, int, int], None]


class ShareSampler:
    """One share of each global batch that a batch sampler draws.

    Args:
        sampler: draws the global batches; asked on rank 0 only.
        plan: the shares.
        rank: of this worker's share; several workers have the same where they split the model.
    """

    def __init__(self, sampler: Iterable[Any], *, plan: Batch, rank: int) -> None:
        self._sampler = sampler
        self._plan = plan
        self._rank = rank
        self.counts: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[Any]]:
        self.counts.clear()
        return self._shares()

    def _shares(self) -> Iterator[list[Any]]:
        for indices in _told(self._sampler, rank=dist.get_rank()):
            ends = bounds(len(indices), self._plan.shares)
            start, end = ends[self._rank], ends[self._rank + 1]
            self.counts.append((end - start, len(indices)))
            yield indices[start:end] or indices[:1]


class Batches:
    """What `step.batches(loader)` gives: as long as the loader, and to be iterated as often.

    Args:
        loader: rebuilt with a `ShareSampler`.
        sampler: of that loader.
        expect: told, before each batch, the batch, how many of its examples count, and the global number.
    """

    def __init__(self, loader: DataLoader[Any], sampler: ShareSampler, *, expect: Expect) -> None:
        self._loader = loader
        self._sampler = sampler
        self._expect = expect

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        for share in self._loader:
            count, size = self._sampler.counts.popleft()
            self._expect(share, count, size)
            yield share


def can_share(loader: Any) -> bool:
    """Whether a loader can load a share alone: a plain map-style `DataLoader` that makes the batches itself.

    Raises:
        UsageError: the loader already gives each process other examples.
    """
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        raise UsageError(
            f"the loader has a DistributedSampler for {loader.sampler.num_replicas} processes",
            cause="it yields a part of each batch, where step.batches(loader) shares out the whole one",
            alternatives=["leave the sampler out: DataLoader(dataset, batch_size=GLOBAL, shuffle=True)"],
        )
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )


def shared(loader: DataLoader[Any], *, plan: Batch, rank: int, expect: Expect) -> Batches:
    """A loader of this worker's share of every global batch.

    Args:
        loader: of global batches, map-style.
        plan: the shares.
        rank: of this worker's share.
        expect: as in `Batches`.
    """
    sampler = ShareSampler(loader.batch_sampler, plan=plan, rank=rank)  # type: ignore[arg-type]
    with_processes = loader.num_workers > 0
    rebuilt = DataLoader(
        loader.dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if with_processes else None,
        persistent_workers=loader.persistent_workers,
    )
    return Batches(rebuilt, sampler, expect=expect)


def _told(sampler: Iterable[Any], *, rank: int) -> Iterator[list[Any]]:
    """The batches that rank 0 draws, handed to every rank in chunks that grow.

    Drawing advances rank 0's generator; the others are set to the same state, so that what the script draws next is
    alike on every worker again.
    """
    drawn = iter(sampler) if rank == 0 else iter(())
    chunk = FIRST_CHUNK
    while True:
        message: list[Any] = [None, None]
        if rank == 0:
            message = [list(islice(map(list, drawn), chunk)), torch.get_rng_state()]
        dist.broadcast_object_list(message, src=0)
        torch.set_rng_state(message[1])
        yield from message[0]
        if len(message[0]) < chunk:
            return
        chunk = min(2 * chunk, LARGEST_CHUNK)


def first_batch(loader: Iterable[Any]) -> Any:
    """The loader's first batch, drawn without moving torch's random numbers on."""
    generator = getattr(loader, "generator", None)
    own = generator.get_state() if generator is not None else None
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(loader))
    if generator is not None:
        generator.set_state(own)
    return batch
