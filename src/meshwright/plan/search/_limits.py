"""How much memory a layout's workers may use."""

from meshwright.cost.hybrid import HybridPricer, Layout
from meshwright.cost.memory import usable_memory
from meshwright.plan._goal import Goal
from meshwright.units import Bytes


def limits(pricer: HybridPricer, goal: Goal, layout: Layout) -> tuple[Bytes, ...]:
    """Bytes that a worker may use, by kind of training host; as many as predictions of peaks can be depended on.

    The workers of a layout that stand on one processor share its machine's memory.
    """
    return tuple(
        min(goal.memory_limit or usable_memory(host.device), host.device.memory) // pricer.processes(layout, kind)[1]
        for kind, host in enumerate(pricer.hosts)
    )
