"""Links between workers of one host, through memory that they share, and which links a pipeline has.

Messages are found by their number and sending never waits, so nothing is asked for ahead of time. What arrives is used
where it lies: an activation is in the sender's memory until its backward has been.
"""

import math
import time
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import Mailboxes, shares_memory
from meshwright.parallel.pipeline._group_links import GroupLinks
from meshwright.parallel.pipeline._links import Arrival, Links, bytes_to_send, laid_out, space_for
from meshwright.parallel.pipeline._stages import Value
from meshwright.units import Seconds


def links_between(group: dist.ProcessGroup | None, device: torch.device) -> Links:
    """Links between the workers of a pipeline; all of them ask at the same time.

    Args:
        group: the workers, in the order of the stages; None: this worker has all stages.
        device: where activations live.
    """
    if group is not None and device.type == "cpu" and shares_memory(group):
        return HostLinks(group)
    return GroupLinks(group, device)


class HostLinks(Links):
    """Links through shared memory, for tensors of the CPU.

    Args:
        group: the pipeline's workers, all on this host, in the order of the stages.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.ahead = 0
        self.waited: Seconds = 0.0
        self._boxes = Mailboxes(group)

    def send(self, tensor: Tensor, value: Value, *, to: int, number: int) -> None:
        """Sends a tensor; it may be changed afterwards."""
        if tensor.numel():
            self._boxes.send(bytes_to_send(tensor, value), to=to, number=number)

    def receive(self, value: Value, *, source: int, number: int) -> Arrival:
        """A tensor that is fetched when it is asked for."""
        return Arrival(partial(self._fetched, value, source=source, number=number))

    def finish(self) -> None:
        """Everything is sent already; says which memory of others is free."""
        self._boxes.give_back()

    def close(self) -> None:
        """Gives the shared memory back."""
        self._boxes.close()

    def _fetched(self, value: Value, *, source: int, number: int) -> Tensor:
        size = math.prod(value.shape) * value.dtype.itemsize
        if not size:
            return space_for(value, torch.device("cpu"))
        started = time.perf_counter()
        flat = self._boxes.receive(size, source=source, number=number)
        self.waited += time.perf_counter() - started
        return laid_out(flat, value)
