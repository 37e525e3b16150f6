"""What is there? Devices, hosts and links, measured here, read from a file, or named from the catalogue.

In: this machine, a cluster file, or a short form such as `h100:8x64`. Out: a `Cluster`.
Reading order: `_device`, `_cluster`, `_control_groups`, `_identity`, `_cache`, `_here`, `_load`, `_correction`,
`_outcome`, `_learned` (what earlier runs teach), `_catalog` (reads `catalog.toml`), `_named_devices`, `_written_units`
and `_figures` (in files), `_short_form`, `_many_hosts` (one host measured, many meant); then `probe`, which measures in
a process of its own (it and `probe_*` are the only files that load torch).
"""

from meshwright.hardware._cache import cache_folder as cache_folder
from meshwright.hardware._catalog import Catalog as Catalog
from meshwright.hardware._catalog import CatalogEntry as CatalogEntry
from meshwright.hardware._catalog import Figure as Figure
from meshwright.hardware._catalog import catalog as catalog
from meshwright.hardware._cluster import STAGED as STAGED
from meshwright.hardware._cluster import Cluster as Cluster
from meshwright.hardware._cluster import CollectiveName as CollectiveName
from meshwright.hardware._cluster import CollectiveRate as CollectiveRate
from meshwright.hardware._cluster import Host as Host
from meshwright.hardware._cluster import Link as Link
from meshwright.hardware._cluster import Tier as Tier
from meshwright.hardware._cluster import Topology as Topology
from meshwright.hardware._control_groups import MemoryGroup as MemoryGroup
from meshwright.hardware._control_groups import memory_groups as memory_groups
from meshwright.hardware._correction import Correction as Correction
from meshwright.hardware._device import Device as Device
from meshwright.hardware._device import MatrixLibrary as MatrixLibrary
from meshwright.hardware._device import MatrixRate as MatrixRate
from meshwright.hardware._device import OperationRate as OperationRate
from meshwright.hardware._here import here as here
from meshwright.hardware._here import load_warning as load_warning
from meshwright.hardware._here import read_cluster as read_cluster
from meshwright.hardware._here import write_cluster as write_cluster
from meshwright.hardware._host_list import first_host as first_host
from meshwright.hardware._identity import identity as identity
from meshwright.hardware._identity import load_now as load_now
from meshwright.hardware._identity import memory_available as memory_available
from meshwright.hardware._identity import usable_cores as usable_cores
from meshwright.hardware._learned import correction as correction
from meshwright.hardware._load import LoadMeter as LoadMeter
from meshwright.hardware._many_hosts import hosts_like as hosts_like
from meshwright.hardware._outcome import Outcome as Outcome
from meshwright.hardware._outcome import outcome_kind as outcome_kind
from meshwright.hardware._outcome import record_outcome as record_outcome
from meshwright.hardware._outcome import recorded_outcomes as recorded_outcomes
from meshwright.hardware._short_form import parse_cluster as parse_cluster
