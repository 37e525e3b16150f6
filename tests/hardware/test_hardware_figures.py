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
