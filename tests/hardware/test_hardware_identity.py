"""Which machine this is, and what of it a process may use."""

from pathlib import Path

import psutil
import pytest

from meshwright.hardware import MemoryGroup, _identity, identity, load_now, memory_available, usable_cores
from meshwright.hardware._identity import identity_digest, memory_limit
from meshwright.units import GIB


def test_identity_names_what_rates_depend_on() -> None:
    text = identity()
    assert f"{len(usable_cores())} cores" in text
    assert "torch " in text
    assert text == identity()


def test_digest_differs_between_machines_and_is_stable() -> None:
    assert identity_digest("a machine") == identity_digest("a machine")
    assert identity_digest("a machine") != identity_digest("another machine")


def test_digest_differs_between_probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digests = [identity_digest("a machine")]
    for number, text in enumerate(("rates of a cache", "rates of a step")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "probe_rates.py").write_text(text)
        monkeypatch.setattr(_identity, "__file__", str(tmp_path / str(number) / "_identity.py"))
        digests.append(identity_digest("a machine"))
    assert len(set(digests)) == 3


def test_one_hardware_thread_of_each_core_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four hardware threads on two cores, numbered as Linux does: 0 and 2 are siblings, 1 and 3 are."""
    for number, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(_identity, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(_identity, "_CGROUP", tmp_path)
    monkeypatch.setattr(_identity.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert usable_cores() == (0, 1)


def test_a_container_gets_the_cores_and_memory_of_its_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    monkeypatch.setattr(_identity, "memory_groups", lambda: (MemoryGroup(limit=GIB, used=GIB // 4),))
    monkeypatch.setattr(_identity, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(_identity, "_CGROUP", tmp_path)
    monkeypatch.setattr(_identity.os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores() == (0, 1)
    assert memory_limit() == GIB
    assert memory_available() == GIB - GIB // 4


def test_a_container_without_quota_gets_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(_identity, "memory_groups", lambda: ())
    monkeypatch.setattr(_identity, "_CGROUP", tmp_path)
    assert memory_limit() == psutil.virtual_memory().total
    assert len(usable_cores()) >= 1


def test_accelerators_are_named_by_their_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 12\n")
    monkeypatch.setattr(_identity, "_NVIDIA", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    both = identity()
    assert both.count("NVIDIA H100 80GB HBM3") == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert identity() != both


def test_load_is_a_share() -> None:
    assert 0.0 <= load_now(interval=0.05) <= 1.0
