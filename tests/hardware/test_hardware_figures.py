"""A cluster file with a figure that cannot be is refused with the figure and what it may be."""

from pathlib import Path

import pytest

from meshwright.errors import DocumentError
from meshwright.hardware import read_cluster

_FILE = """
name = "own"
[[hosts]]
name = "a"
count = 2
devices = 8
device = "h100"
loading = 1e9
[[links]]
tier = "network"
latency = 1e-5
bandwidth = 5e10
"""


@pytest.mark.parametrize(
    ("figure", "wrong", "told"),
    [
        ("loading = 1e9", "loading = -1.0", "hosts.0.loading is -1"),
        ("devices = 8", "devices = 0", "hosts.0.devices is 0"),
        ("latency = 1e-5", "latency = -1e-5", "links.0.latency is -1e-05"),
        ('"h100"', '{ catalogue = "h100", price = -2.0 }', "hosts.0.device.price is -2"),
        ('"h100"', '{ catalogue = "h100", power = inf }', "hosts.0.device.power is inf"),
        (
            "bandwidth = 5e10",
            "bandwidth = 5e10\n[[links]]\ntier = 'network'\nlatency = 1e-5\nbandwidth = 1e9",
            "2 links are of tier 'network', of 50 GB/s and 1 GB/s",
        ),
        ("bandwidth = 5e10", "bandwidth = inf", "links.0.bandwidth is inf\n  because: it is in B/s, from 1e5 up"),
        ("bandwidth = 5e10", "bandwidth = 50", "links.0.bandwidth is 50\n  because: it is in B/s, from 1e5 up"),
        ("latency = 1e-5", "latency = 10", "links.0.latency is 10\n  because: it is in seconds"),
        ('"h100"', '{ catalogue = "h100", memory = 80 }', "hosts.0.device.memory is 80\n  because: it is in bytes"),
        ("bandwidth = 5e10", "bandwidth = '50 GiB'", "links.0.bandwidth: '50 GiB' is no rate"),
        (
            'tier = "network"',
            'tier = "rack"\nreach = 4',
            "links.0.reach is 4, and a host has 8 devices\n  because: a rack joins hosts",
        ),
        (
            "[[links]]",
            "[[hosts]]\nname = 'a'\ndevice = 'a100'\n[[links]]",
            "2 entries of hosts are named 'a'\n  because: workers are told their host by its name",
        ),
        ("latency = 1e-5", "", "links.0.latency is missing"),
        ("count = 2", "count = 'two'", "hosts.0.count: Input should be a valid integer"),
        ("bandwidth = 5e10", "bandwidth = 0.0", "links.0.bandwidth is 0"),
        (
            'tier = "network"',
            'tier = "rack"',
            "links.0.reach is 0\n  because: it is the number of devices that a rack joins",
        ),
    ],
)
def test_a_figure_that_cannot_be(tmp_path: Path, figure: str, wrong: str, told: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(_FILE)
    assert read_cluster(path).hosts[0].loading == 1e9
    path.write_text(_FILE.replace(figure, wrong))
    with pytest.raises(DocumentError, match=told) as caught:
        read_cluster(path)
    assert caught.value.command == "meshwright hardware --save cluster.toml"


def test_figures_may_have_units(tmp_path: Path) -> None:
    """400 Gbit/s are 5e10 B/s, 10 microseconds 1e-5 s, 64 GiB 2**36 B."""
    path = tmp_path / "own.toml"
    text = _FILE.replace("5e10", "'400Gbit/s'").replace("1e-5", "'10us'").replace("1e9", "'2GB/s'")
    path.write_text(text.replace('"h100"', '{ catalogue = "h100", memory = "64GiB" }'))
    cluster = read_cluster(path)
    assert (cluster.links[0].bandwidth, cluster.hosts[0].loading, cluster.hosts[0].device.memory) == (5e10, 2e9, 2**36)
    assert cluster.links[0].latency == pytest.approx(1e-5)
