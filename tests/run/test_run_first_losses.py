"""The one-device program's first losses, written by the planning process."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from meshwright.run import _first_losses
from meshwright.run._first_losses import FirstLosses
from meshwright.run._job import Job
from meshwright.run._opening import Request
from meshwright.run._role import Role
from meshwright.run._session import Session
from meshwright.run._step import Step


def a_job() -> Job:
    torch.manual_seed(3)
    model = nn.Linear(4, 2)
    return Job(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
    )


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(6, 4, generator=generator), torch.randn(6, 2, generator=generator)) for _ in range(count)]


def plain_losses(count: int) -> list[float]:
    job, losses = a_job(), []
    for batch in batches(count):
        job.optimizer.zero_grad()
        loss = job.loss(job.model, batch)
        loss.backward()
        job.optimizer.step()
        losses.append(loss.item())
    return losses


def written(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / _first_losses.FILE).read_text().splitlines()]


def test_they_are_the_plain_loops_losses_and_end_the_script_when_there_are_enough(tmp_path):
    program = FirstLosses(a_job(), folder=tmp_path, steps=3)
    given = batches(3)
    losses = [program.step(batch).item() for batch in given[:2]]
    with pytest.raises(SystemExit):
        program.step(given[2])
    assert losses == plain_losses(2)
    assert [record["loss"] for record in written(tmp_path)] == plain_losses(3)
    assert [record["step"] for record in written(tmp_path)] == [1, 2, 3]


def test_none_are_run_where_none_are_wanted(tmp_path):
    with pytest.raises(SystemExit):
        FirstLosses(a_job(), folder=tmp_path, steps=0).step(batches(1)[0])
    assert not (tmp_path / _first_losses.FILE).exists()


def test_they_end_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(_first_losses, "LONGEST", -1.0)
    program = FirstLosses(a_job(), folder=tmp_path, steps=9)
    with pytest.raises(SystemExit):
        program.step(batches(1)[0])


def test_a_step_that_fails_is_left_to_the_run(tmp_path):
    def odd(_model, _batch):
        raise ValueError("the second batch is odd")

    program = FirstLosses(a_job(), folder=tmp_path, steps=3)
    program.step(batches(1)[0])
    program._engine.job = replace(program._engine.job, loss=odd)
    with pytest.raises(SystemExit) as end:
        program.step(batches(1)[0])
    assert end.value.code == 0
    assert len(written(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["plan", "verify"])
def test_what_is_thrown_away_is_not_saved(tmp_path, kind):
    """A script that saves every few steps would put these steps where the run's checkpoint lies."""
    job = a_job()
    step = Step(job, Request(), Session(Role(kind=kind, folder=tmp_path)))
    step.save(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
    assert step.is_main
    step._stand_in = FirstLosses(job, folder=tmp_path, steps=3)
    assert not step.is_main
