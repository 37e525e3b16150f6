"""The transport that a strategy names."""

import torch
import torch.distributed as dist

from meshwright.cost import TransportName
from meshwright.errors import PlanError
from meshwright.exchange._hierarchical import HierarchicalTransport
from meshwright.exchange._process_group import ProcessGroupTransport
from meshwright.exchange._shared_memory import SharedMemoryTransport
from meshwright.exchange._transport import Transport


def make_transport(name: TransportName, group: dist.ProcessGroup | None, device: torch.device) -> Transport:
    """A transport of its own between the workers of a group; they all make it at the same time.

    Args:
        name: a strategy's `exchange.transport`.
        group: the workers; None: all of them.
        device: where the tensors are.

    Raises:
        PlanError: the transport cannot reach such tensors.
    """
    if name in ("shared_memory", "hierarchical") and device.type != "cpu":
        raise PlanError(
            f"{name} cannot carry tensors of {device.type}",
            cause="it joins processes that compute on the CPUs of one host",
            alternatives=["--set transport=nccl for NVIDIA GPUs", "--set transport=gloo"],
        )
    if name == "shared_memory":
        return SharedMemoryTransport(group)
    if name == "hierarchical":
        return HierarchicalTransport(group)
    return ProcessGroupTransport(group, backend=name)
