"""`meshwright hardware`."""

from pathlib import Path

from meshwright.cli._options import Flag
from meshwright.cli._output import print_json, print_view
from meshwright.documents import to_mapping
from meshwright.errors import UsageError
from meshwright.hardware import Cluster, here, hosts_like, write_cluster
from meshwright.launch import Progress
from meshwright.report import hardware_table
from meshwright.units import parse_rate

HEADING = """This host as it was measured. For a cluster of hosts like it:

    meshwright hardware --save FILE --hosts 16 --network 25GB/s

or edit this file: count = 16 in [[hosts]], identity = "" (plans are then searched, and not tried here), and at the end

    [[links]]
    tier = "network"
    latency = 1e-05      # of an empty message, in s
    bandwidth = 25e9     # of a whole host, one way, in B/s

Hosts near each other that have more of it are a link of tier "rack", with reach = 32 for racks of 32 devices and the
bandwidth of a device. Devices may be named: device = "h100", or { catalogue = "h100", price = 2.1 }.
"""


def hardware(
    *,
    fresh: Flag = False,
    save: Path | None = None,
    hosts: int = 1,
    network: str = "",
    json: Flag = False,
) -> None:
    """What is here, measured: cores, memory, matrix rates, memory bandwidth, collectives between processes.

    Measured once per machine, in under 30 s, and kept with date and machine.

    Parameters
    ----------
    fresh
        Measure again.
    save
        Also write it to this file, which --cluster takes.
    hosts
        Describe so many hosts like this one, to plan for them.
    network
        Between them, bandwidth of a whole host, one way: 25GB/s, 100Gbit/s. Default: the catalogue's.
    json
        Print one JSON object.
    """
    progress = Progress()
    cluster = here(fresh=fresh, progress=progress.status.say)
    progress.close()
    if hosts != 1 or network:
        cluster = many(cluster, hosts, network=network)
    if save is not None:
        write_cluster(cluster, save, heading=HEADING if hosts == 1 else "")
    if json:
        print_json(to_mapping(cluster))
    else:
        print_view(hardware_table(cluster))
        if save is not None:
            print_view(f"written to {save}")


def many(cluster: Cluster, count: int, *, network: str) -> Cluster:
    """The cluster of so many hosts like this one.

    Raises:
        UsageError: no number of hosts, or no rate.
    """
    if count < 2:
        raise UsageError(
            f"--hosts {count}{f' with --network {network}' if network else ''}",
            cause="a network is between two hosts or more",
            command="meshwright hardware --save cluster.toml --hosts 16 --network 25GB/s",
        )
    try:
        rate = parse_rate(network) if network else 0.0
    except ValueError as error:
        raise UsageError(f"--network: {error}") from None
    return hosts_like(cluster, count, network=rate)
