"""A run of several workers: the step, its records, and what it refuses."""

import json

import numpy
import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled, mlp, plain_steps, strategy
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import meshwright as mw
from meshwright.cost import Measurement, MemoryBreakdown, Prediction, TimeBreakdown
from meshwright.documents import read_toml
from meshwright.errors import BatchError, LossError, UsageError
from meshwright.plan import write_plan
from meshwright.run import Role
from meshwright.run._metrics import WorkerRecord
from meshwright.run._session import CURRENT, Session


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a plan for two workers in it."""
    planned(tmp_path, strategy(6))
    return tmp_path


def planned(folder, chosen, **more):
    """Writes a plan into a run's folder."""
    prediction = Prediction(time=TimeBreakdown(forward=10.0), low=9.0, high=11.0, memory=MemoryBreakdown())
    write_plan(mw.Plan(model="Sequential", strategy=chosen, prediction=prediction, **more), folder / "plan.toml")


def start(folder, model, loss=cross_entropy, **options):
    role = Role(kind="run", rank=dist.get_rank(), world_size=2, folder=folder, plan=folder / "plan.toml")
    CURRENT.set(Session(role))
    return mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss, **options)


def sharded_blocks(folder):
    model = mlp()
    step = start(folder, model)
    step(labelled(6))
    step.close()
    return [isinstance(layer, FSDPModule) for layer in model]


def test_blocks_are_sharded_one_by_one_where_nothing_but_the_plan_arrived(workers, tmp_path):
    """As on another host: a worker that sharded other blocks than the rest would wait for gathers of another size."""
    planned(tmp_path, strategy(6, sharding="parameters"), blocks=("0", "2"))
    assert workers(2).run(sharded_blocks, tmp_path) == [[True, False, True]] * 2


def run(folder):
    step = start(folder, mlp(), clip=0.5)
    values, labels = labelled(20)
    loader = DataLoader(TensorDataset(values, labels), batch_size=6, shuffle=True)
    torch.manual_seed(11)
    losses, lengths = [], []
    for _ in range(2):
        for batch in step.batches(loader):
            losses.append(step([part.clone() for part in batch]).item())
            lengths.append(len(batch[0]))
    step.recorder.close("finished", memory_by_rank=(1, 2))
    state = {name: value.clone() for name, value in step.model.state_dict().items()}
    return losses, lengths, state, step.is_main, step.plan.model


def test_a_run_equals_the_loop_on_one_device_and_is_recorded(workers, folder):
    (losses, lengths, state, main, model), other = workers(2).run(run, folder)
    values, labels = labelled(20)
    torch.manual_seed(11)
    loader = DataLoader(TensorDataset(values, labels), batch_size=6, shuffle=True)
    batches = [batch for _ in range(2) for batch in loader]
    wanted, expected = plain_steps(mlp(), cross_entropy, batches, clip=0.5)
    assert losses == pytest.approx(wanted, abs=1e-12)
    assert other[0] == losses
    assert all(torch.allclose(state[name], value, atol=1e-12, rtol=0) for name, value in expected.items())
    assert lengths == other[1] == [3, 3, 3, 1] * 2
    assert (main, other[3], model) == (True, False, "Sequential")

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] for line in lines] == losses
    assert all(line["grad_norm"] > 0 and line["memory"] > 2**20 for line in lines)
    assert sum(lines[-1]["time"].values()) == pytest.approx(lines[-1]["duration"])
    measurement = read_toml(Measurement, folder / "measurement.toml")
    assert (measurement.status, measurement.steps, measurement.memory_by_rank) == ("finished", 8, (1, 2))
    assert measurement.low <= measurement.step <= measurement.high
    record = read_toml(WorkerRecord, folder / "workers" / "rank-1.toml")
    assert (record.rank, record.steps, record.status) == (1, 8, "finished")


class Stream(IterableDataset):
    """Examples that come one after another, for ever the same."""

    def __iter__(self):
        values, labels = labelled(15)
        return zip(values, labels, strict=True)


def streamed(folder):
    step = start(folder, mlp())
    return [step(batch).item() for batch in step.batches(DataLoader(Stream(), batch_size=6))]


def test_an_iterable_dataset_is_read_by_all_and_shared_out(workers, folder):
    wanted, _ = plain_steps(mlp(), cross_entropy, DataLoader(Stream(), batch_size=6))
    for losses in workers(2).run(streamed, folder):
        assert losses == pytest.approx(wanted, abs=1e-12)


def not_a_number(folder):
    step = start(folder, mlp())
    values, labels = labelled(6)
    step((values, labels))
    values[0] = float("nan")
    with pytest.raises(LossError) as caught:
        step((values, labels))
    return caught.value.fact


def test_a_loss_that_is_no_number_on_one_worker_stops_all(workers, folder):
    assert workers(2).run(not_a_number, folder) == ["the loss is nan in step 2"] * 2


def different(folder):
    step = start(folder, mlp())
    with pytest.raises(BatchError) as caught:
        step(labelled(6, seed=dist.get_rank()))
    return str(caught.value)


def test_different_batches_are_refused_instead_of_averaged(workers, folder):
    first, second = workers(2).run(different, folder)
    assert first == second
    assert first.startswith("the workers were given different batches (examples: worker 0: 6, worker 1: 6)")
    assert "torch.manual_seed" in first


def second_call(folder):
    step = start(folder, mlp())
    with pytest.raises(UsageError) as caught:
        mw.parallel(step.model, torch.optim.SGD(step.model.parameters()), cross_entropy)
    return caught.value.fact


def test_a_second_step_is_refused_in_a_run(workers, folder):
    assert workers(2).run(second_call, folder)[0] == "the script calls mw.parallel a second time"


def numpy_batch(folder):
    def loss(model, batch):
        return cross_entropy(model, (torch.from_numpy(batch["x"]), torch.tensor(batch["y"])))

    values, labels = labelled(6)
    value = start(folder, mlp(), loss)({"x": values.numpy(), "y": labels.tolist(), "scale": numpy.float64(2)}).item()
    return value, plain_steps(mlp(), cross_entropy, [(values, labels)])[0][0]


def test_arrays_and_lists_are_shared_out_too(workers, folder):
    value, wanted = workers(2).run(numpy_batch, folder)[1]
    assert value == pytest.approx(wanted, abs=1e-12)


def checkpointed(folder):
    step = start(folder, mlp())
    step(labelled(6, seed=1))
    step.save(folder / "saved")
    return step(labelled(6, seed=2)).item()


def test_a_checkpoint_of_two_workers_goes_on_with_one(workers, folder):
    expected = workers(2).run(checkpointed, folder)[0]
    model = mlp()
    step = mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), cross_entropy)
    step.load(folder / "saved")
    assert step(labelled(6, seed=2)).item() == pytest.approx(expected, abs=1e-12)
