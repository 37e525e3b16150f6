r"""What islands have come to that do not wait for each other: one copy of the parameters, moved by each as it comes.

An island hands over its way $d = \theta_v - \theta_i$ since it was given version $v$, and gets the newest version. The
others have moved the parameters meanwhile; what its gradients would have been there is estimated with their squares as
curvature, $d + \lambda |d| \odot (\theta - \theta_v)$. Then $\theta \leftarrow \theta - \eta w d$ with the island's
part $w$ of the batch, times $b / s$ where $s$ others came in between and $s$ is more than the bound $b$. Momentum is
added once for every round of as many ways as there are islands.

Source: Zheng et al., Asynchronous Stochastic Gradient Descent with Delay Compensation (2017), equations 9 and 10, in
its adaptive form; Liu et al., Asynchronous Local-SGD Training for Language Modeling (2024) for the delayed momentum.
"""

from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Updates

LEAVE, HAND_OVER, LOOK = 0, 1, 2
_COMPENSATION = 0.5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """A server's state.

    Args:
        tensors: parameters, momentum, the round's sum, and what each island was given.
        versions: of what each was given.
        version: of the parameters.
    """

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    version: int


class Server:
    """The parameters that islands hand their ways to.

    Args:
        agreed: what all islands start from, flat.
        updates: rate, momentum and bound.
        weights: each island's part of the global batch (0 to 1).
    """

    def __init__(self, agreed: Tensor, updates: Updates, *, weights: tuple[float, ...]) -> None:
        self._updates = updates
        self._weights = weights
        self._lock = Lock()
        self._agreed = agreed.clone()
        self._given = [agreed.clone() for _ in weights]
        self._versions = [0] * len(weights)
        self._momentum = torch.zeros_like(agreed)
        self._round = torch.zeros_like(agreed)
        self.version = 0

    @torch.no_grad()
    def hand_over(self, island: int, way: Tensor) -> Tensor:
        """Takes an island's way since it was given the parameters; gives it the newest."""
        with self._lock:
            late = self.version - self._versions[island]
            shift = self._agreed - self._given[island]
            step = way + _COMPENSATION * way.abs() * shift
            bound = self._updates.staleness
            step.mul_(self._weights[island] * (bound / late if late > bound else 1.0))
            self._agreed.sub_(step, alpha=self._updates.rate)
            self._round.add_(step)
            self.version += 1
            if self.version % len(self._weights) == 0:
                self._add_momentum()
            return self._give(island)

    @torch.no_grad()
    def look(self, island: int) -> Tensor:
        """The newest parameters, for an island that has handed its way over."""
        with self._lock:
            return self._give(island)

    def follow(self, updates: Updates) -> None:
        """Takes ways otherwise from now on."""
        with self._lock:
            self._updates = updates

    def kept(self) -> "Kept":
        """Where things stand, for `go_back`."""
        with self._lock:
            tensors = tuple(tensor.clone() for tensor in self._tensors())
            return Kept(tensors=tensors, versions=tuple(self._versions), version=self.version)

    @torch.no_grad()
    def go_back(self, kept: "Kept") -> None:
        """Forgets what came since."""
        with self._lock:
            for tensor, value in zip(self._tensors(), kept.tensors, strict=True):
                tensor.copy_(value)
            self._versions, self.version = list(kept.versions), kept.version

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self._agreed, self._momentum, self._round, *self._given)

    def _give(self, island: int) -> Tensor:
        self._versions[island] = self.version
        self._given[island].copy_(self._agreed)
        return self._agreed.clone()

    def _add_momentum(self) -> None:
        momentum = self._updates.momentum
        self._momentum.mul_(momentum).add_(self._round)
        self._round.zero_()
        self._agreed.sub_(self._momentum, alpha=self._updates.rate * momentum)


class Counter:
    """Serves one island that is another process, on a thread of its own, until it leaves.

    Args:
        server: what it asks for.
        island: its number.
        pair: this process and that one.
        peer: that one's rank among all processes.
        numel: parameters.
        dtype: of the messages.
    """

    def __init__(
        self, server: Server, island: int, *, pair: dist.ProcessGroup, peer: int, numel: int, dtype: torch.dtype
    ) -> None:
        self._server = server
        self._island = island
        self._pair: Any = pair
        self._peer = peer
        self._message = torch.zeros(numel, dtype=dtype)
        self._thread = Thread(target=self._serve, name=f"meshwright-island-{island}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits until the island has left."""
        self._thread.join()

    def _serve(self) -> None:
        wanted = torch.zeros(1, dtype=torch.int64)
        try:
            while True:
                dist.recv(wanted, src=self._peer, group=self._pair)
                if wanted.item() == LEAVE:
                    return
                if wanted.item() == HAND_OVER:
                    dist.recv(self._message, src=self._peer, group=self._pair)
                    answer = self._server.hand_over(self._island, self._message)
                else:
                    answer = self._server.look(self._island)
                dist.send(answer, dst=self._peer, group=self._pair)
        except RuntimeError:
            # the island's process has ended; the others go on, and the launcher says which one it was
            return
