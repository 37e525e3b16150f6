"""How much memory a layout's workers may use."""

from meshwright.cost.hybrid import HybridPricer, Layout
from meshwright.cost.memory import usable_memory
from meshwright.hardware import Device
from meshwright.plan._goal import Goal
from meshwright.units import Bytes


def limits(pricer: HybridPricer, goal: Goal, layout: Layout) -> tuple[Bytes, ...]:
    """Bytes that a worker may use, by kind of training host; as many as predictions of peaks can be depended on.

    A limit that is no less than a device has limits nothing. The workers of a layout that stand on one processor share
    its machine's memory.
    """
    return tuple(
        _limit(goal.memory_limit, host.device) // pricer.processes(layout, kind)[1]
        for kind, host in enumerate(pricer.hosts)
    )


def _limit(asked: Bytes, device: Device) -> Bytes:
    return asked if 0 < asked < device.memory else usable_memory(device)
