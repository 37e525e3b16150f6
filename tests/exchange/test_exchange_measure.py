"""The program that measures transports: its lines are what `hardware` reads."""

import json
import subprocess
import sys

import pytest

from meshwright.documents import from_mapping
from meshwright.exchange import measure
from meshwright.hardware import CollectiveRate


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshwright.exchange.measure", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_each_line_is_a_rate():
    result = _run("--workers", "2", "--size", "100000")
    assert result.returncode == 0, result.stderr
    rates = [from_mapping(CollectiveRate, json.loads(line), where="line") for line in result.stdout.splitlines()]
    assert {(rate.transport, rate.collective) for rate in rates} == {
        ("gloo", "all_reduce"),
        ("gloo", "broadcast"),
        ("gloo", "all_gather"),
        ("gloo", "reduce_scatter"),
        ("shared_memory", "all_reduce"),
        ("shared_memory", "broadcast"),
    }
    assert all(rate.group == 2 and rate.latency > 0 and rate.bandwidth > 0 for rate in rates)


def test_an_unknown_transport_is_refused(capsys):
    with pytest.raises(SystemExit) as raised:
        measure.main(["--transport", "pigeons"])
    assert raised.value.code == 2
    assert "invalid choice: 'pigeons'" in capsys.readouterr().err
