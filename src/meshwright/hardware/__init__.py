"""What is there? Devices, hosts and links, measured here or read from a file.

In: this machine, or a cluster file. Out: a `Cluster`.
Reading order: `_device`, `_cluster`, `probe` (the only file that loads torch).
"""

from meshwright.hardware._cluster import Cluster as Cluster
from meshwright.hardware._cluster import CollectiveName as CollectiveName
from meshwright.hardware._cluster import CollectiveRate as CollectiveRate
from meshwright.hardware._cluster import Host as Host
from meshwright.hardware._cluster import Link as Link
from meshwright.hardware._cluster import Tier as Tier
from meshwright.hardware._correction import Correction as Correction
from meshwright.hardware._device import Device as Device
from meshwright.hardware._device import MatrixLibrary as MatrixLibrary
from meshwright.hardware._device import MatrixRate as MatrixRate
from meshwright.hardware._device import OperationRate as OperationRate
