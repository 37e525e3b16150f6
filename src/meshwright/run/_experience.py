"""What earlier runs of a job here teach about its next prediction, and what this one's outcome is filed under."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from meshwright import hardware
from meshwright.cost import Strategy
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Correction
from meshwright.plan import SPLITS, Pins


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """Of one job on one cluster.

    Args:
        graph: of its step.
        cluster: that it is planned for.
        loop: how the script takes its steps, where it does so itself; empty: through `step(batch)`.
        load: gives the share of the processor that others use now (0 to 1); asked only where there is experience.
    """

    graph: Graph
    cluster: Cluster
    loop: str = ""
    load: Callable[[], float]

    def correction(self, pins: Pins, *, basis: str) -> Correction:
        """From runs that the same was asked of, predicted by the `model` or by a `trial`."""
        if not self.cluster.identity or not hardware.recorded_outcomes(self.cluster.identity):
            return Correction()
        splits = [name for name in SPLITS if (getattr(pins, name) or 1) > 1]
        apart = pins.updates if pins.updates not in (None, "every_step") else ""
        lossy = pins.compression if pins.compression not in (None, "none") else ""
        kind = self._kind(splits=splits, apart=apart or "", lossy=lossy or "", num_hosts=_num_hosts(self.cluster))
        return hardware.correction(self.cluster.identity, kind, basis=basis, load=self.load())

    def kind(self, strategy: Strategy) -> str:
        """What the outcome of a strategy is filed under."""
        updates, compression = strategy.exchange.updates, strategy.exchange.compression
        return self._kind(
            splits=strategy.mesh.split_axes,
            apart=updates.kind if updates else "",
            lossy=compression.method if compression else "",
            num_hosts=len({worker.host for worker in strategy.workers}),
        )

    def _kind(self, *, splits: Sequence[str], apart: str, lossy: str, num_hosts: int) -> str:
        form = (
            self.loop,
            f"split by {' and '.join(splits)}" if splits else "",
            f"{apart} updates" if apart else "",
            f"{lossy} compression" if lossy else "",
            f"over {num_hosts} hosts" if num_hosts > 1 else "",
        )
        return hardware.outcome_kind(
            model=self.graph.model,
            parameters=sum(prod(item.shape) * item.repeats for item in self.graph.parameters),
            flops=sum(item.flops.at(self.graph.batch_size) * item.repeats for item in self.graph.operations),
            device=self.cluster.hosts[0].device.kind,
            form=", ".join(part for part in form if part),
        )


def _num_hosts(cluster: Cluster) -> int:
    return sum(host.count for host in cluster.hosts)
