"""What a testbed is made of: its hosts, read from a TOML file.

bandwidth = "100Mbit/s"        # of every host's link that says nothing else; left out: not shaped

[[hosts]]
name = "a"
cores = [0]                    # processor cores; left out: all
cpus = 1.0                     # processor time per second of clock time; left out: as much as there is

[[hosts]]
name = "b"
cores = [1]
cpus = 0.5
memory = "4GiB"
bandwidth = "1Gbit/s"
"""

import re
from dataclasses import dataclass
from pathlib import Path

from meshwright.documents import read_toml
from meshwright.errors import UsageError
from meshwright.units import Bytes, BytesPerSecond, parse_bytes

_RATE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kMG]?)bit/s\s*")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDescription:
    """A host.

    Args:
        name: its host name.
        cores: processor cores it may use; empty: all.
        cpus: processor time per second of clock time; 0: no limit.
        memory: most that its processes may use together, with a unit; empty: no limit.
        bandwidth: of its link, each way, in bit/s with a unit; empty: the description's.
    """

    name: str
    cores: tuple[int, ...] = ()
    cpus: float = 0.0
    memory: str = ""
    bandwidth: str = ""

    @property
    def memory_limit(self) -> Bytes:
        """Most memory (B); 0: no limit."""
        return parse_bytes(self.memory) if self.memory else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """All hosts.

    Args:
        bandwidth: of every link that says nothing else, each way; empty: not shaped.
        hosts: in the order of their ranks.
    """

    bandwidth: str = ""
    hosts: tuple[HostDescription, ...]

    def link_rate(self, rank: int) -> BytesPerSecond:
        """Bandwidth of a host's link, each way (B/s); 0: not shaped."""
        text = self.hosts[rank].bandwidth or self.bandwidth
        return parse_rate(text) if text else 0.0


def parse_rate(text: str) -> BytesPerSecond:
    """Bytes per second of `100Mbit/s`.

    Raises:
        UsageError: it is not written so.
    """
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{text!r} is no bandwidth", cause="it is written like 100Mbit/s or 1Gbit/s")
    return float(match[1]) * _FACTORS[match[2]] / 8


def read_description(path: Path) -> Description:
    """The description in a file.

    Raises:
        UsageError: it has no hosts, two of one name, or values that mean nothing.
    """
    description = read_toml(Description, path)
    names = [host.name for host in description.hosts]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{path} names the hosts {names}", cause="it needs at least one, each with its own name")
    for rank in range(len(names)):
        description.link_rate(rank)
    return description
