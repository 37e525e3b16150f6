"""Islands of one worker that hand their ways to a server whenever they are ready, and wait for nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Updates
from meshwright.errors import PlanError
from meshwright.exchange import CommunicationThread, Transfer
from meshwright.parallel._around import Around
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.parallel._subgroup import subgroup
from meshwright.parallel.stale._flat import FlatParameters
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._server import HAND_OVER, LEAVE, LOOK, Counter, Server
from meshwright.units import Seconds


class AsynchronousUpdates(Around):
    """A worker's own steps; its way is handed over beside them.

    An island that is not answered before the next way is due goes on until it is: a slow host or a slow link makes
    meetings rarer, not steps slower.

    Args:
        inner: this worker's steps.
        island: it.
        updates: interval and outer step.
        weights: each island's part of the global batch, by rank (0 to 1).
        group: all workers; None: all there are.

    Raises:
        PlanError: an island has several workers, which would have to be answered at the same time.
    """

    def __init__(
        self,
        inner: Parallelized,
        island: Island,
        updates: Updates,
        *,
        weights: tuple[float, ...],
        group: dist.ProcessGroup | None,
    ) -> None:
        if len(island.ranks) > 1:
            raise PlanError(
                f"asynchronous updates with islands of {len(island.ranks)} workers",
                cause="the workers of an island take equal steps, and would get their answers at different times",
                alternatives=["--set updates=local", f"--set islands={len(weights) * len(island.ranks)}"],
                command="meshwright run SCRIPT",
            )
        super().__init__(inner)
        self.island = island
        self._updates = updates
        self._everyone: Any = dist.group.WORLD if group is None else group
        self._parameters = FlatParameters([held.parameter for held in inner.held() if held.parameter.requires_grad])
        self._given = self._parameters.values()
        self._sent = self._given
        self._server: Server | None = None
        self._counters: list[Counter] = []
        self._pair: Any = None
        self._home = 0
        self._join(weights)
        self._thread = CommunicationThread(torch.device("cpu"))
        self._answer: Tensor = self._given
        self._transfer: Transfer | None = None
        self._steps = self._met = 0
        self._waited: Seconds = 0.0

    @property
    def forwards_together(self) -> bool:
        """Never: nobody waits."""
        return False

    @property
    def communication_seconds(self) -> Seconds:
        """Time that the last step spent on handing over (s); the exchange itself goes on beside the steps."""
        return self._waited

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """After the step, an answer that has come is taken, and what is due handed over."""
        with self._inner.stepping():
            yield
        self._steps += 1
        begun = time.perf_counter()
        if self._transfer is not None and self._transfer.advance():
            self._take()
        if self._transfer is None and self._steps % self._updates.interval == 0:
            self._hand_over()
        self._waited = time.perf_counter() - begun

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of what the islands have come to together; every worker calls it and waits for the slowest."""
        self._meet()
        return self._inner.full_parameters()

    def full_state_dict(self) -> dict[str, Tensor]:
        """The same as a `state_dict`."""
        self._meet()
        return self._inner.full_state_dict()

    def held_state(self) -> list[Piece]:
        """What this worker has of what the islands have come to together."""
        self._meet()
        return self._inner.held_state()

    def close(self) -> None:
        """Leaves; the server's process stays until everybody has."""
        if self._transfer is not None:
            self._take()
        self._thread.close()
        if self._pair is not None:
            dist.send(torch.tensor([LEAVE]), dst=self._home, group=self._pair)
        for counter in self._counters:
            counter.close()
        self._inner.close()

    def _join(self, weights: tuple[float, ...]) -> None:
        """Makes the server, on the worker with the largest share, and a connection between it and every other."""
        rank, members = dist.get_rank(self._everyone), dist.get_process_group_ranks(self._everyone)
        message = [uuid4().hex]
        dist.broadcast_object_list(message, src=members[0], group=self._everyone)
        fastest = max(range(len(weights)), key=lambda number: weights[number])
        self._home = members[fastest]
        name = f"meshwright/{message[0]}"
        pairs = {
            other: subgroup([self._home, members[other]], f"{name}/{other}", self._everyone, backend="gloo")
            for other in range(len(weights))
            if other != fastest and rank in (fastest, other)
        }
        if rank != fastest:
            self._pair = pairs[rank]
            return
        self._server = server = Server(self._given.cpu(), self._updates, weights=weights)
        self._counters = [
            Counter(server, other, pair=pair, peer=members[other], numel=self._given.numel(), dtype=self._given.dtype)
            for other, pair in pairs.items()
            if pair is not None
        ]

    @torch.no_grad()
    def _hand_over(self) -> None:
        self._sent = self._parameters.values()
        way = (self._given - self._sent).cpu()
        self._transfer = self._thread.start(lambda: self._ask(HAND_OVER, way))

    def _ask(self, wanted: int, way: Tensor) -> None:
        """Runs on the thread."""
        if self._server is not None:
            rank = self.island.ranks[0]
            self._answer = self._server.hand_over(rank, way) if wanted == HAND_OVER else self._server.look(rank)
            return
        dist.send(torch.tensor([wanted]), dst=self._home, group=self._pair)
        if wanted == HAND_OVER:
            dist.send(way, dst=self._home, group=self._pair)
        answer = torch.empty_like(way)
        dist.recv(answer, src=self._home, group=self._pair)
        self._answer = answer

    @torch.no_grad()
    def _take(self) -> None:
        """Waits for the answer, and goes on from it with what was done since the way was sent."""
        assert self._transfer is not None
        self._transfer.wait()
        self._transfer = None
        self._given = self._answer.to(self._sent.device)
        self._parameters.go_on(self._given, sent=self._sent)

    def _meet(self) -> None:
        """Everybody hands over what is left, and goes on from the same parameters."""
        if self._met == self._steps:
            return
        self._met = self._steps
        if self._transfer is not None:
            self._take()
        self._hand_over()
        self._take()
        dist.barrier(group=self._everyone)
        self._sent = self._parameters.values()
        way = torch.empty_like(self._sent, device="cpu")
        look: Callable[[], object] = lambda: self._ask(LOOK, way)  # noqa: E731
        self._transfer = self._thread.start(look)
        self._take()
