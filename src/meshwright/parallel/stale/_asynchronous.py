"""Islands of one worker that hand their ways to a server whenever they are ready, and wait for nobody."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Updates, suited_momentum
from meshwright.errors import PlanError
from meshwright.exchange import CommunicationThread, Transfer
from meshwright.parallel._parallelized import Parallelized
from meshwright.parallel._subgroup import subgroup
from meshwright.parallel.stale._flat import FlatParameters
from meshwright.parallel.stale._islands import Island
from meshwright.parallel.stale._rates import with_rates
from meshwright.parallel.stale._server import HAND_OVER, LEAVE, LOOK, Counter, Server
from meshwright.parallel.stale._unwaiting import Unwaiting
from meshwright.units import Seconds


class AsynchronousUpdates(Unwaiting):
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
        super().__init__(inner, island, group=group)
        self._updates = updates
        self._parameters = FlatParameters(self._trained)
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
    def communication_seconds(self) -> Seconds:
        """Time that the last step spent on handing over (s); the exchange itself goes on beside the steps."""
        return self._waited

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """After the step, an answer that has come is taken, and what is due handed over."""
        optimizer, rates = self._inner.optimizer, self._lockstep.rates if self._manner == "exact" else []
        with nullcontext() if optimizer is None or not rates else with_rates(optimizer, rates), self._inner.stepping():
            yield
        if self._manner != "apart":
            return
        self._steps += 1
        begun = time.perf_counter()
        if self._transfer is not None and self._transfer.advance():
            self._take()
        if self._transfer is None and self._steps % self._updates.interval == 0:
            self._hand_over()
        self._waited = time.perf_counter() - begun

    def draw_nearer(self) -> str:
        """Hands over more often and bounds staleness more tightly; all workers do it where they agree."""
        before = self._updates
        if not self.roams:
            return ""
        if before.interval == 1:
            return self._stay_together()
        interval = before.interval // 2
        self._updates = replace(
            before,
            interval=interval,
            staleness=max(1, before.staleness // 2),
            momentum=min(before.momentum, suited_momentum(interval)),
        )
        if self._server is not None:
            self._server.follow(self._updates)
        now = self._updates
        return (
            f"a worker hands over every {now.interval} instead of every {before.interval} steps, and what is later "
            f"than {now.staleness} instead of {before.staleness} others counts for less"
        )

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Inside of it, from where all agree, steps leave no trace on the server."""
        dist.barrier(group=self._everyone)
        steps, met, given = self._steps, self._met, self._given.clone()
        server = None if self._server is None else self._server.kept()
        yield
        dist.barrier(group=self._everyone)
        self._steps, self._met, self._given = steps, met, given
        if self._server is not None and server is not None:
            self._server.go_back(server)
        dist.barrier(group=self._everyone)

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
        fastest = max(range(len(weights)), key=lambda number: weights[number])
        self._home = members[fastest]
        pairs = {
            other: subgroup([self._home, members[other]], f"{self._name}/{other}", self._everyone, backend="gloo")
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

    def _come_together(self) -> None:
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
