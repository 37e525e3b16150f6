"""Collectives in two levels: inside each host through shared memory, between hosts one flow from each.

With n hosts of m workers a ring over all of them sends 2 (nm - 1)/(nm) tensors through every host's link. Summed inside
the host first it is 2 (n - 1)/n: for two hosts of two workers 1 instead of 1.5; and sockets inside the host are spared.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.errors import PlanError
from meshwright.exchange._transport import Receive, Transfer, Transport
from meshwright.exchange.direct import DirectTransport
from meshwright.exchange.shared_memory import SharedMemoryTransport, host_identity


class HierarchicalTransport(Transport):
    """Shared memory inside a host, direct connections between the first workers of all hosts.

    Sums inside the host are taken while the backward runs, and so is the exchange between hosts; results are handed out
    inside the host when they are waited for. The second level has shared memory of its own: what is started there
    follows the order of the waits, not that of the starts. `leaders` is the group of the first workers of all hosts, on
    these; None on all others.

    Args:
        group: the workers; None: all of them.
        host: equal for workers of one host; None: as the system says.

    Raises:
        PlanError: the group is not all workers, which have to form the groups of hosts together.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, host: str | None = None) -> None:
        super().__init__(group)
        if self.size != dist.get_world_size():
            raise PlanError(
                f"hierarchical cannot join {self.size} of {dist.get_world_size()} workers",
                cause="all workers together have to form the groups of their hosts",
                alternatives=["--set transport=gloo"],
            )
        hosts: list[str] = [""] * self.size
        dist.all_gather_object(hosts, host or host_identity(), group=group)
        names = list(dict.fromkeys(hosts))
        members = [[rank for rank, host in enumerate(hosts) if host == name] for name in names]
        self._host_of = [names.index(host) for host in hosts]
        self._leaders = [ranks[0] for ranks in members]
        groups = [dist.new_group(ranks) for ranks in members]
        between = cast(dist.ProcessGroup, dist.new_group(self._leaders))
        self.leaders = between if self.rank in self._leaders else None
        self._members = members[self._host_of[self.rank]]
        own = cast(dist.ProcessGroup, groups[self._host_of[self.rank]])
        self._inside = SharedMemoryTransport(own)
        self._outside = SharedMemoryTransport(own)
        self._unfinished: deque[TwoLevelTransfer] = deque()
        self._between = DirectTransport(between) if self.leaders is not None else None

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that the other workers of the host see."""
        return self._inside.allocate(numel, dtype, device)

    def release(self, tensor: Tensor) -> None:
        """Forgets memory that `allocate` gave."""
        self._inside.release(tensor)

    def all_reduce(self, tensor: Tensor) -> Transfer:
        """Sums a tensor inside the host, between hosts, and hands it out."""
        between = self._between if len(self._leaders) > 1 else None
        return self.sum_through(tensor, None if between is None else partial(between.all_reduce, tensor))

    def sum_through(self, tensor: Tensor, send: Callable[[], Transfer] | None) -> Transfer:
        """Sums a tensor inside the host, does something else between hosts, and hands the result out.

        Args:
            tensor: from `allocate`.
            send: starts what makes the host's sum the sum over hosts, in place, on the first worker of each host; None
                on all others.
        """
        return self._queued(self._inside.all_reduce(tensor), send, partial(self._hand_out, tensor))

    def broadcast(self, tensor: Tensor, *, root: int) -> Transfer:
        """Gives the root's host its tensor, then the other hosts."""
        return self._queued(None, None, partial(self._carry, tensor, root))

    def publish(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the root's tensor to all others."""
        take = partial(receive, tensor) if self.rank != root else _nothing
        return self._queued(None, None, partial(self._carry, tensor, root), take)

    def collect(self, tensor: Tensor, *, root: int, receive: Receive) -> Transfer:
        """Shows the sum of the others' tensors to the root; between hosts it costs as much as an all-reduce."""
        if self.rank == root:
            tensor.zero_()
        between = self._between if len(self._leaders) > 1 else None
        send = None if between is None else partial(between.all_reduce, tensor)
        take = partial(receive, tensor) if self.rank == root else _nothing
        return self._queued(self._inside.all_reduce(tensor), send, partial(self._hand_out, tensor), take)

    def finish(self, transfer: "TwoLevelTransfer") -> None:
        """Ends a transfer and all that were started before it, in their order."""
        while not transfer.done:
            self._unfinished.popleft().finish()

    def advance(self) -> None:
        """Sends between hosts what is summed inside, in the order of the starts; a broadcast waits for its turn."""
        for transfer in self._unfinished:
            if not transfer.sent_between():
                break

    def close(self) -> None:
        """Gives back memory and connections."""
        self._inside.close()
        self._outside.close()
        if self._between is not None:
            self._between.close()

    def _queued(
        self,
        inside: Transfer | None,
        send: Callable[[], Transfer] | None,
        *last: Callable[[], object],
    ) -> Transfer:
        transfer = TwoLevelTransfer(self, inside, send, last)
        self._unfinished.append(transfer)
        return transfer

    def _carry(self, tensor: Tensor, root: int) -> None:
        """A broadcast: inside the root's host, between hosts, inside the others."""
        home = self._host_of[root]
        at_home = home == self._host_of[self.rank]
        if at_home and len(self._members) > 1:
            self._outside.broadcast(tensor, root=self._members.index(root)).wait()
        if self._between is not None and len(self._leaders) > 1:
            self._between.broadcast(tensor, root=home).wait()
        if not at_home:
            self._hand_out(tensor)

    def _hand_out(self, tensor: Tensor) -> None:
        if len(self._members) > 1:
            self._outside.broadcast(tensor, root=0).wait()


class TwoLevelTransfer(Transfer):
    """A transfer inside the host, then one between hosts, then what is done when it is waited for."""

    def __init__(
        self,
        transport: HierarchicalTransport,
        inside: Transfer | None,
        send: Callable[[], Transfer] | None,
        last: Sequence[Callable[[], object]],
    ) -> None:
        self._transport = transport
        self._inside = inside
        self._send = send
        self._between: Transfer | None = None
        self._last = last
        self.done = False

    def advance(self) -> bool:
        """Moves all transfers on; done only once it was waited for."""
        self._transport.advance()
        return self.done

    def wait(self) -> None:
        """Waits until it is done."""
        self._transport.finish(self)

    def sent_between(self) -> bool:
        """Sends it between hosts if it is summed inside; whether that has been done."""
        if self._inside is None or not self._inside.advance():
            return False
        if self._send is not None:
            self._between, self._send = self._send(), None
        return True

    def finish(self) -> None:
        """Does all that is left; it is the oldest of the transport."""
        if self._inside is not None:
            self._inside.wait()
        if self._send is not None:
            self._between, self._send = self._send(), None
        if self._between is not None:
            self._between.wait()
        for step in self._last:
            step()
        self.done = True


def _nothing() -> None:
    pass
