"""The cached measurement of this machine: when it is used, when it is made again, what is said."""

import subprocess
import sys
from pathlib import Path

import pytest
from hardware_builders import measured

from meshwright.errors import DocumentError, HardwareError
from meshwright.hardware import (
    Cluster,
    _here,
    cache_folder,
    here,
    identity,
    load_warning,
    read_cluster,
    usable_cores,
    write_cluster,
)
from meshwright.hardware._cache import calibration_path


class Probe:
    """Stands in for the measuring process; counts how often it was asked."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls = 0

    def __call__(self, result: Path, tell) -> None:
        self.calls += 1
        tell("measuring")
        write_cluster(self.cluster, result)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Probe:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_here, "load_now", lambda: 0.1)
    stand_in = Probe(measured(identity()))
    monkeypatch.setattr(_here, "_run_probe", stand_in)
    return stand_in


def test_measured_once_then_cached(probe: Probe) -> None:
    lines: list[str] = []
    assert here(progress=lines.append).identity == identity()
    here(progress=lines.append)
    assert probe.calls == 1
    assert lines == ["measuring"]
    assert cache_folder().is_dir()


def test_fresh_measures_again(probe: Probe) -> None:
    here()
    here(fresh=True)
    assert probe.calls == 2


def test_another_machine_is_measured_again(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    here()
    monkeypatch.setattr(_here, "identity", lambda: "another machine")
    here()
    assert probe.calls == 2


def test_a_measurement_of_another_machine_in_its_place_is_not_used(probe: Probe) -> None:
    write_cluster(measured("somebody else's"), calibration_path(identity()))
    assert here().identity == identity()
    assert probe.calls == 1


def test_an_unreadable_measurement_is_made_again(probe: Probe) -> None:
    path = calibration_path(identity())
    path.parent.mkdir(parents=True)
    path.write_text("name = [")
    here()
    assert probe.calls == 1
    assert read_cluster(path).identity == identity()


def test_memory_is_what_is_available_now(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_here, "memory_available", lambda: 12345)
    assert here().hosts[0].device.memory == 12345
    assert read_cluster(calibration_path(identity())).hosts[0].device.memory == probe.cluster.hosts[0].device.memory


def test_a_changed_load_is_told(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    here()
    monkeypatch.setattr(_here, "load_now", lambda: 0.6)
    lines: list[str] = []
    here(progress=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("other processes use 60% of the processor now, 10% when this machine was measured (")
    assert lines[0].endswith("); predictions may be off: meshwright hardware --fresh")
    assert probe.calls == 1


def test_a_small_change_of_load_is_not_told() -> None:
    assert load_warning(measured("x", load=0.3), 0.45) == ""
    assert load_warning(measured("x", load=0.3), 0.15) == ""
    assert load_warning(measured("x", load=0.3), 0.05) != ""


def test_a_cache_that_cannot_be_written_is_told(probe: Probe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(occupied))
    lines: list[str] = []
    assert here(progress=lines.append).identity == identity()
    assert probe.calls == 1
    assert lines[1].startswith("measured, but not kept for the next time: cannot write ")
    assert lines[1].endswith("; name another folder: MESHWRIGHT_CACHE=FOLDER")


def test_a_failing_probe_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(_here.sys, "executable", "/bin/false")
    with pytest.raises(HardwareError) as caught:
        here()
    assert str(caught.value) == (
        "measuring this machine failed with exit code 1\n"
        "  because: the probe said nothing\n"
        "  next:    python -m meshwright.hardware.probe cluster.toml"
    )


def test_clusters_survive_their_file(tmp_path: Path) -> None:
    cluster = measured("x")
    write_cluster(cluster, tmp_path / "cluster.toml")
    assert read_cluster(tmp_path / "cluster.toml") == cluster


def test_a_misspelt_key_of_a_cluster_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    write_cluster(measured("x"), path)
    path.write_text(path.read_text().replace("cores =", "coers ="))
    with pytest.raises(DocumentError, match=r"unknown key 'hosts\.device\.coers'") as caught:
        read_cluster(path)
    assert caught.value.cause == "did you mean 'cores'?"


def test_nothing_here_loads_torch() -> None:
    program = (
        "import sys, meshwright.hardware as h; h.identity(); h.load_now(interval=0.01); h.catalog(); "
        "h.parse_cluster('h100:8x4'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_cores_can_be_pinned_to() -> None:
    cores = usable_cores()
    assert len(set(cores)) == len(cores) >= 1
