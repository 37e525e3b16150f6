r"""How fast a machine has to load batches, and how long it takes where that is known.

Every worker reads the share of its data rank, also where several workers split a model among them: a machine reads
$w s$ bytes a step, $w$ its workers and $s$ a share. That is done beside the step before, so that a step takes the
longer of computing and loading.
"""

from meshwright.cost.hybrid._layout import Layout, Replica
from meshwright.cost.hybrid._topology import workers_on
from meshwright.graph import Graph
from meshwright.hardware import Host
from meshwright.units import Bytes, Seconds


class Loading:
    """Loading of one graph's batches by a cluster's hosts.

    Args:
        graph: with the size of a batch.
        hosts: those that train.
    """

    def __init__(self, graph: Graph, hosts: tuple[Host, ...]) -> None:
        self._graph, self._hosts = graph, hosts

    def of(self, layout: Layout, replica: Replica) -> Seconds:
        """What the slowest of a replica's hosts takes for a step's batches; 0 where that is known of none (s)."""
        return max(
            self.size(layout, replica, kind) / rate if (rate := self._hosts[kind].loading) else 0.0
            for kind in dict.fromkeys(replica.kinds)
        )

    def longest(self, layout: Layout) -> Seconds:
        """Of all replicas (s)."""
        return max((self.of(layout, replica) for replica in layout.replicas), default=0.0)

    def most(self, layout: Layout) -> tuple[Host, Bytes]:
        """The host that has to read most in a step, and how much that is (B)."""
        read = {
            kind: round(self.size(layout, replica, kind)) for replica in layout.replicas for kind in replica.kinds
        }  # fmt: skip
        kind = max(read, key=lambda one: read[one])
        return self._hosts[kind], read[kind]

    def size(self, layout: Layout, replica: Replica, kind: int) -> float:
        """What a host of a kind reads for a step, if its workers are all of this replica or of others like it (B)."""
        host, workers = self._hosts[kind], layout.mesh.num_workers
        near = max(workers_on(host, threads=layout.threads, workers=workers), min(host.devices, workers))
        return near * self._graph.batch_bytes.at(replica.examples * layout.micro_batches)
