"""What a run writes down."""

import json

import pytest
import torch

from meshwright.cost import Measurement
from meshwright.documents import read_toml
from meshwright.errors import LossError, UsageError
from meshwright.run._clock import BACKWARD, BEGIN, COMMUNICATION, FORWARD, OPTIMIZER, OVERHEAD, HostClock, Stamps
from meshwright.run._memory import peak_memory
from meshwright.run._metrics import Recorder


def stamps(forward=0.2, waited=0.0):
    """A step of 1 s: the given forward, 0.3 backward, 0.1 exchange, 0.05 overhead, the rest update."""
    marks = [(BEGIN, 0.0), (OVERHEAD, 0.05), (FORWARD, 0.05 + forward), (BACKWARD, 0.35 + forward)]
    marks += [(COMMUNICATION, 0.45 + forward), (OPTIMIZER, 1.0)]
    return Stamps(marks=marks, communication=waited)


def test_the_phases_are_the_times_between_stamps():
    times = stamps().breakdown(HostClock())
    assert (times.overhead, times.forward) == (0.05, pytest.approx(0.2))
    assert (times.backward, times.communication) == (pytest.approx(0.3), pytest.approx(0.1))
    assert times.optimizer == pytest.approx(0.35)
    assert times.step == pytest.approx(1.0)


def test_what_the_update_waited_for_is_communication():
    times = stamps(waited=0.25).breakdown(HostClock())
    assert times.communication == pytest.approx(0.25)
    assert times.optimizer == pytest.approx(0.2)


def test_what_lies_between_the_pieces_of_a_pipeline_is_waiting():
    """Forward and backward of the marks are 0.5 s together, the pieces in them 0.1 and 0.25 s."""
    step = stamps()
    step.pieces = [(FORWARD, 0.1, 0.2), (BACKWARD, 0.3, 0.4), (BACKWARD, 0.4, 0.55)]
    times = step.breakdown(HostClock())
    assert (times.forward, times.backward) == (pytest.approx(0.1), pytest.approx(0.25))
    assert times.waiting == pytest.approx(0.15)
    assert times.step == pytest.approx(1.0)


def test_a_run_in_sum_leaves_the_first_steps_out(tmp_path):
    recorder = Recorder(tmp_path, clock=HostClock(), rank=0)
    for number in range(20):
        slow = Stamps(marks=[(BEGIN, 0.0), (FORWARD, 9.0)])
        fast = Stamps(marks=[(BEGIN, 0.0), (FORWARD, 0.1 + number / 1000)])
        recorder.add(torch.tensor(1.5), slow if number < 5 else fast, examples=8, grad_norm=0.25)
    recorder.close("interrupted", reason="stopped by a signal")
    found = read_toml(Measurement, tmp_path / "measurement.toml")
    assert (found.status, found.reason, found.steps) == ("interrupted", "stopped by a signal", 20)
    assert found.step == pytest.approx(0.112)
    assert (found.low, found.high) == (pytest.approx(0.105), pytest.approx(0.119))
    assert found.memory_by_rank == (found.memory,)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert (lines[19]["step"], lines[19]["loss"], lines[19]["grad_norm"]) == (20, 1.5, 0.25)
    assert lines[19]["samples_per_second"] > 0
    assert lines[0]["elapsed"] < lines[19]["elapsed"]


def test_the_first_step_is_on_disk_at_once(tmp_path):
    recorder = Recorder(tmp_path, clock=HostClock(), rank=0)
    recorder.add(torch.tensor(1.0), stamps(), examples=1, grad_norm=0.0)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
    recorder.close("finished")


def test_a_loss_that_was_not_looked_at_in_its_step_is_found_later(tmp_path):
    recorder = Recorder(tmp_path, clock=HostClock(), rank=0)
    with pytest.raises(LossError, match="the loss is nan in step 1"):
        recorder.add(torch.tensor(float("nan")), stamps(), examples=1, grad_norm=0.0)
    recorder.close("failed", reason="the loss is nan in step 1")
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_a_last_loss_that_is_no_number_fails_the_run_after_all_is_written(tmp_path):
    recorder = Recorder(tmp_path, clock=HostClock(), rank=0)
    for value in (1.0, float("nan")):
        recorder.add(torch.tensor(value), stamps(), examples=1, grad_norm=0.0)
    with pytest.raises(LossError, match="the loss is nan in step 2"):
        recorder.close("finished")
    found = read_toml(Measurement, tmp_path / "measurement.toml")
    assert (found.status, found.reason, found.steps) == ("failed", "the loss is nan in step 2", 2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_other_workers_write_only_their_own_record(tmp_path):
    recorder = Recorder(tmp_path, clock=HostClock(), rank=3)
    recorder.add(torch.tensor(1.0), stamps(), examples=1, grad_norm=0.0)
    recorder.close("finished")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["rank-3.toml"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write .*taken/run/metrics\.jsonl: Not a directory"):
        Recorder(tmp_path / "taken" / "run", clock=HostClock(), rank=0)


def test_peak_memory_sees_what_was_touched_and_stays():
    """The kernel counts pages in batches per thread, so the high-water mark is right within a few hundred of them."""
    held = torch.ones(128 * 2**20, dtype=torch.uint8)
    during = peak_memory()
    del held
    assert during > 128 * 2**20
    assert peak_memory() > 0.99 * during


def test_an_accelerators_peak_is_what_torch_took_and_what_is_there_beside(monkeypatch):
    """Of 80 units 30 are free and torch has 40 now, at most 45 so far: context and libraries take 10."""
    figures = {"is_available": True, "get_memory_info": (30, 80), "memory_reserved": 40, "max_memory_reserved": 45}
    for name, value in figures.items():
        monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)
    assert peak_memory() == 55
