"""The transport and the reduction that a strategy names."""

from collections.abc import Collection

import torch
import torch.distributed as dist

from meshwright.cost import Strategy, TransportName
from meshwright.errors import PlanError
from meshwright.exchange._hierarchical import HierarchicalTransport
from meshwright.exchange._process_group import ProcessGroupTransport
from meshwright.exchange._reduction import ExactReduction, LossyReduction, Reduction
from meshwright.exchange._rounded_reduction import RoundedReduction
from meshwright.exchange._transport import Transport
from meshwright.exchange._wire import Wire
from meshwright.exchange.direct import DirectTransport, settle_packing
from meshwright.exchange.shared_memory import SharedMemoryTransport

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def make_transport(name: TransportName, group: dist.ProcessGroup | None, device: torch.device) -> Transport:
    """A transport of its own between the workers of a group; they all make it at the same time.

    Args:
        name: a strategy's `exchange.transport`.
        group: the workers; None: all of them.
        device: where the tensors are.

    Raises:
        PlanError: the transport cannot reach such tensors.
    """
    if name in ("shared_memory", "hierarchical", "direct", "direct_packed") and device.type != "cpu":
        raise PlanError(
            f"{name} cannot carry tensors of {device.type}",
            cause="it joins processes that compute on CPUs",
            alternatives=["--set transport=nccl for NVIDIA GPUs", "--set transport=gloo"],
        )
    if name == "shared_memory":
        return SharedMemoryTransport(group)
    if name == "hierarchical":
        return HierarchicalTransport(group)
    if name == "direct":
        return DirectTransport(group)
    if name == "direct_packed":
        return settle_packing(DirectTransport(group))
    return ProcessGroupTransport(group, backend=name)


def make_reduction(
    strategy: Strategy,
    transport: Transport,
    group: dist.ProcessGroup | None,
    device: torch.device,
    *,
    dtypes: Collection[torch.dtype] = (),
) -> Reduction:
    """How a strategy sums gradients; the workers of the group all make it at the same time.

    Args:
        strategy: says what is sent.
        transport: carries exact sums, and sums inside hosts where it has two levels.
        group: the workers; None: all of them.
        device: where gradients are.
        dtypes: of the gradients.

    Raises:
        PlanError: such gradients cannot be sent in fewer bits, or not over this transport.
    """
    choice = strategy.exchange.compression or HALVES.get(strategy.precision.reduction)
    if choice is None:
        return ExactReduction(transport)
    _check_lossy(strategy, dtypes)
    if isinstance(choice, torch.dtype) and isinstance(transport, DirectTransport):
        return RoundedReduction(transport, choice)
    if isinstance(transport, HierarchicalTransport):
        wire = None if transport.leaders is None else Wire(transport.leaders)
        return LossyReduction(choice, wire, device, transport=transport)
    wire = Wire(group, backend="nccl" if device.type == "cuda" else "gloo")
    return LossyReduction(choice, wire, device, transport=transport)


def _check_lossy(strategy: Strategy, dtypes: Collection[torch.dtype]) -> None:
    odd = sorted({str(dtype) for dtype in dtypes if not dtype.is_floating_point})
    if odd:
        raise PlanError(
            f"gradients of {', '.join(odd)} cannot be rounded or compressed",
            cause="encodings are made for real numbers",
            alternatives=["--set compression=none", "--set reduction=as_written"],
        )
    if strategy.exchange.transport == "shared_memory":
        raise PlanError(
            "gradients that travel through shared memory are not rounded or compressed",
            cause="memory is faster than any encoding",
            alternatives=["--set compression=none", "--set reduction=as_written", "--set transport=gloo"],
        )
