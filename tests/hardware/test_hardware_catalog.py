"""The catalogue: every figure has a source, achieved rates lie below peaks, and short forms become clusters."""

import re
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.errors import UsageError
from meshwright.hardware import CatalogEntry, Figure, catalog, parse_cluster, read_cluster
from meshwright.hardware._catalog import device_of, typical_share
from meshwright.units import GIB

KNOWN = catalog()


def figures(entry: CatalogEntry) -> list[Figure]:
    """Every figure of an entry."""
    single = [getattr(entry, field.name) for field in fields(entry)]
    return [item for item in [*single, *entry.peaks.values(), *entry.achieved.values()] if isinstance(item, Figure)]


def test_the_devices_that_people_train_on_are_there() -> None:
    accelerators = [entry for entry in KNOWN.devices.values() if entry.kind != "cpu"]
    assert len(accelerators) >= 30
    assert len(KNOWN.devices) - len(accelerators) >= 3
    assert {"v100", "gb300", "mi250", "mi355x", "tpu-v4", "tpu-v6e", "gaudi3", "trainium2", "rtx4090"} <= set(
        KNOWN.devices
    )


@pytest.mark.parametrize("key", KNOWN.devices)
def test_every_figure_is_positive_and_has_a_known_source(key: str) -> None:
    entry = KNOWN.devices[key]
    for figure in figures(entry):
        assert figure.value > 0
        assert figure.source in KNOWN.sources
    assert entry.peaks
    assert set(entry.achieved) <= set(entry.peaks)


@pytest.mark.parametrize("key", KNOWN.devices)
def test_nobody_achieved_more_than_the_peak(key: str) -> None:
    entry = KNOWN.devices[key]
    assert all(figure.value <= entry.peaks[dtype].value for dtype, figure in entry.achieved.items())
    assert (entry.price_low is None) == (entry.price_high is None)
    if entry.price_low is not None and entry.price_high is not None:
        assert entry.price_low.value <= entry.price_high.value


@pytest.mark.parametrize("key", KNOWN.devices)
def test_every_price_and_power_has_a_date(key: str) -> None:
    entry = KNOWN.devices[key]
    dates = [KNOWN.date(figure) for figure in (entry.power, entry.price_low, entry.price_high) if figure is not None]
    assert all(re.fullmatch(r"20\d\d(-\d\d){1,2}", date) for date in dates)


def test_every_source_is_used_and_every_key_is_read() -> None:
    used = {figure.source for entry in KNOWN.devices.values() for figure in figures(entry)}
    used |= {figure.source for figure in (*KNOWN.latency.values(), *KNOWN.context.values())}
    assert used == set(KNOWN.sources)
    raw = tomllib.loads(files("meshwright.hardware").joinpath("catalog.toml").read_text(encoding="utf-8"))
    legal = {field.name for field in fields(CatalogEntry)}
    assert all(set(entry) <= legal for entry in raw["devices"].values())


def test_measured_rates_are_used_as_they_are_and_others_shortened() -> None:
    """H100: 794.5 of 989 TFLOP/s in bfloat16 were measured; float16 was not, and gets NVIDIA's usual share."""
    device = device_of(KNOWN, KNOWN.devices["h100"])
    rates = {rate.dtype: rate.rate for rate in device.matrix_rates}
    assert rates["bfloat16"] == 794.5e12
    assert rates["float16"] == pytest.approx(989e12 * typical_share(KNOWN, "NVIDIA"))
    assert device.memory == 80 * GIB
    assert device.price == pytest.approx((2.5 + 5.0) / 2)
    assert device.source == "catalogue: stas00/ml-engineering@744d01e18b, compute/accelerator/README.md"


def test_a_maker_without_measurements_gets_the_share_of_all() -> None:
    assert typical_share(KNOWN, "Google") == typical_share(KNOWN, "nobody")
    assert 0.5 < typical_share(KNOWN, "nobody") < 1.0


def test_hosts_of_eight() -> None:
    cluster = parse_cluster("H100:8x64")
    assert cluster.num_devices == 512
    assert [link.tier for link in cluster.links] == ["host", "network"]
    assert [link.bandwidth for link in cluster.links] == [450e9, 400e9]


def test_one_device_and_one_host() -> None:
    assert parse_cluster("a100").num_devices == 1
    assert parse_cluster(" a100:4 ").num_devices == 4


def test_a_link_that_reaches_beyond_a_host_makes_a_rack() -> None:
    assert [link.tier for link in parse_cluster("gb200:4x18").links] == ["host", "rack"]
    assert [link.tier for link in parse_cluster("gb200:4x18x8").links] == ["host", "rack", "network"]


def test_racks_have_the_hosts_network_inside_and_a_part_of_it_between() -> None:
    """16 racks of 4 hosts of 8: 50 GB/s a device among 32 of them; of a host's 400 GB/s a third leads elsewhere."""
    cluster = parse_cluster("h100:8x4x16/3")
    assert cluster.num_devices == 512
    found = [(link.tier, link.bandwidth, link.reach) for link in cluster.links]
    assert found == [("host", 450e9, 0), ("rack", 50e9, 32), ("network", pytest.approx(400e9 / 3), 0)]


def test_kinds_of_hosts_are_joined_by_the_slowest_of_their_links() -> None:
    """8 H100 a host over 450 GB/s beside 8 A100 over 300 GB/s; one host of each needs a network, too."""
    cluster = parse_cluster("h100:8 + a100:8x2")
    assert [(host.name, host.count, host.devices) for host in cluster.hosts] == [("h100", 1, 8), ("a100", 2, 8)]
    alone = {link.tier: link.bandwidth for link in parse_cluster("a100:8x2").links}
    assert {link.tier: link.bandwidth for link in cluster.links} == alone
    assert {link.tier: link.bandwidth for link in parse_cluster("a100:8x2+h100:8").links} == alone
    assert [host.name for host in parse_cluster("h100:8+h100:4").hosts] == ["h100-a", "h100-b"]
    assert [link.tier for link in parse_cluster("gb200:4x18+h100:8").links] == ["host", "network"]


def test_racks_of_several_kinds_are_not_of_that_form() -> None:
    with pytest.raises(UsageError, match="does not say which rack a host is in"):
        parse_cluster("h100:8x4x2+a100:8")


def test_processors_have_cores_and_exchange_through_memory() -> None:
    cluster = parse_cluster("epyc-9654")
    assert cluster.num_cores == 96
    assert cluster.hosts[0].device.matrix_rates[0].threads == 96
    assert [link.tier for link in cluster.links] == ["process"]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(KNOWN.devices)), st.integers(1, 16))
def test_every_device_makes_a_host(key: str, devices: int) -> None:
    cluster = parse_cluster(f"{key}:{devices}")
    assert cluster.num_devices == devices
    assert parse_cluster(cluster.name) == cluster


def test_an_unknown_device_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        parse_cluster("h1000:8")
    assert caught.value.fact == "no device 'h1000' in the catalogue"
    assert caught.value.cause == "did you mean 'h100'?"


def test_an_unknown_network_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        parse_cluster("l4:8x2")
    assert str(caught.value) == (
        "the catalogue does not know what network 2 hosts of NVIDIA L4 have\n"
        "  because: no document it is made from says it\n"
        "  instead: one host: l4:8\n"
        "  instead: a cluster file with a link of tier 'network'\n"
        "  next:    meshwright hardware --save cluster.toml"
    )


def test_the_alternative_to_an_unknown_network_is_a_short_form_too() -> None:
    with pytest.raises(UsageError) as caught:
        parse_cluster("rtx4090:4x2")
    assert caught.value.alternatives[0] == "one host: rtx4090:4"


@pytest.mark.parametrize("text", ["", ":8", "h100:", "h100:0", "h100:8x", "h100:8x0", "h100:8x2/2", "h100:-1"])
def test_what_is_no_short_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no cluster"):
        parse_cluster(text)


def test_a_cluster_file_names_devices_and_three_tiers(tmp_path: Path) -> None:
    """Two kinds of hosts; the second with a price of its own. An unknown device is an error with the nearest."""
    path = tmp_path / "cluster.toml"
    text = """
        name = "mixed"
        hosts = [
            { name = "new", count = 4, devices = 8, device = "h100" },
            { name = "old", count = 12, devices = 8, device = { catalogue = "a100", price = 0.9 } },
        ]
        links = [
            { tier = "host", latency = 5e-6, bandwidth = 300e9 },
            { tier = "rack", latency = 1e-5, bandwidth = 25e9, reach = 32 },
            { tier = "network", latency = 2e-5, bandwidth = 100e9 },
        ]
    """
    path.write_text(text, encoding="utf-8")
    cluster = read_cluster(path)
    new, old = (host.device for host in cluster.hosts)
    assert new == device_of(KNOWN, KNOWN.devices["h100"])
    assert (old.name, old.price) == ("NVIDIA A100 SXM 80GB", 0.9)
    assert [(link.tier, link.reach) for link in cluster.links] == [("host", 0), ("rack", 32), ("network", 0)]
    path.write_text(text.replace('"a100"', '"a1000"'), encoding="utf-8")
    with pytest.raises(UsageError, match="no device 'a1000' in the catalogue"):
        read_cluster(path)
