"""Which communicator the workers of an axis have."""

import torch
import torch.distributed as dist

from meshwright.cost import Strategy, carrier_within_host
from meshwright.exchange import shares_memory
from meshwright.parallel.tensor._communicator import Communicator, GroupCommunicator
from meshwright.parallel.tensor._host_communicator import HostCommunicator


def make_communicator(group: dist.ProcessGroup, strategy: Strategy) -> Communicator:
    """Shared memory between processors of one host, else the group's own library; all members call it together.

    Args:
        group: the workers of the axis, in the order of their coordinates.
        strategy: says where tensors are, and whether shared memory is wanted.
    """
    on_processors = torch.device(strategy.workers[0].device).type == "cpu"
    wanted = carrier_within_host(strategy.exchange.transport, strategy.sharding) == "shared_memory"
    return HostCommunicator(group) if on_processors and wanted and shares_memory(group) else GroupCommunicator(group)
