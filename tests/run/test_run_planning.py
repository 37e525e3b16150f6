"""Plans made among processes that stand already, and a command line's wishes over a script's."""

import os
from dataclasses import replace

import psutil
import pytest
import torch
import torch.distributed as dist
from run_jobs import cross_entropy, labelled, mlp

import meshwright as mw
from meshwright.cost import MemoryBreakdown, Prediction, TimeBreakdown
from meshwright.documents import write_toml
from meshwright.errors import DoesNotFitError, PlanError
from meshwright.graph import read_graph
from meshwright.graph.capture import capture
from meshwright.hardware import write_cluster
from meshwright.plan import Goal, Pins, read_plan, with_splits
from meshwright.run import Job, Role, _planning
from meshwright.run._opening import Request
from meshwright.run._planning import context_of, merged_goal, plan_together, scaled, trial_budget, with_context
from meshwright.run._program_splits import with_pinned_splits, with_tensor_axis
from meshwright.run._session import CURRENT, Session
from meshwright.run.loop import hand_written
from planning_builders import GB, machine, processor


def job():
    model = mlp()
    return Job(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss=cross_entropy)


def role_in(folder):
    return Role(kind="joined", rank=dist.get_rank(), world_size=2, folder=folder, cluster=folder / "cluster.toml")


def planned(folder, pins):
    return plan_together(job(), labelled(8), role_in(folder), pins=pins, allow=())


def test_rank_0_plans_for_the_workers_there_are_and_tells_the_others(workers, tmp_path):
    write_cluster(machine(), tmp_path / "cluster.toml")
    first, second = workers(2).run(planned, tmp_path, Pins(matrix_library="default"))
    assert first == second
    assert first.model == "Sequential"
    assert first.strategy.num_workers == 2
    assert first.strategy.batch.size == 8
    assert first.strategy.kernels.matrix_library == "default"


def refused(folder, pins, kind):
    with pytest.raises(kind) as caught:
        planned(folder, pins)
    return caught.value.fact


def test_what_keeps_rank_0_from_a_plan_is_raised_on_every_worker(workers, tmp_path):
    write_cluster(machine(processor(memory=GB // 4)), tmp_path / "cluster.toml")
    first, second = workers(2).run(refused, tmp_path, Pins(), DoesNotFitError)
    assert first == second
    write_cluster(machine(), tmp_path / "cluster.toml")
    first, second = workers(2).run(refused, tmp_path, Pins(threads=3), PlanError)
    assert first == second


def joined_steps(folder):
    """A script's own call among processes of torchrun: plans at the first batch, then runs."""
    CURRENT.set(Session(role_in(folder)))
    wanted = job()
    step = mw.parallel(wanted.model, wanted.optimizer, cross_entropy, plan={"transport": "gloo"})
    losses = [step(labelled(8, seed)).item() for seed in range(3)]
    step.recorder.close("finished")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return losses, step.plan.strategy.num_workers, step.plan.origins["transport"]


def test_joined_processes_plan_at_their_first_batch_and_run(workers, tmp_path):
    write_cluster(machine(), tmp_path / "cluster.toml")
    first, second = workers(2).run(joined_steps, tmp_path)
    assert first == second
    assert first[1:] == (2, "file")
    model = mlp()
    step = mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    assert first[0] == pytest.approx([step(labelled(8, seed)).item() for seed in range(3)], abs=1e-12)
    assert (tmp_path / "plan.toml").exists()
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_hand_written_loop_is_planned_at_its_first_update(tmp_path):
    """From the gradients that its own loss sent back, with the optimizer that steps."""
    write_cluster(replace(machine(), identity=""), tmp_path / "cluster.toml")
    write_toml(Goal(pins=Pins(workers=2)), tmp_path / "goal.toml")
    role = Role(kind="plan", folder=tmp_path, cluster=tmp_path / "cluster.toml", goal=tmp_path / "goal.toml")
    own = mlp()
    model = hand_written(own, Request(), role, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = labelled(8)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    with pytest.raises(SystemExit):
        optimizer.step()
    plan, graph = read_plan(tmp_path / "plan.toml"), read_graph(tmp_path / "graph.json")
    assert (plan.strategy.num_workers, plan.strategy.mesh.pp, plan.strategy.batch.accumulation) == (2, 1, 1)
    assert (graph.optimizer.name, graph.batch_size) == ("AdamW", 8)
    torch.optim.SGD(own.parameters(), lr=0.1).step()


def test_a_pin_of_the_command_line_wins_and_permissions_add_up():
    goal = Goal(pins=Pins(workers=2), allow=("precision",), memory_limit=7)
    merged = merged_goal(goal, pins=Pins(workers=1, threads=2), allow=("staleness", "precision"))
    assert merged.pins == Pins(workers=2, threads=2)
    assert merged.allow == ("precision", "staleness")
    assert merged.memory_limit == 7


def test_a_trial_is_corrected_by_what_runs_took_after_earlier_trials():
    """Steps took 1.5 × their trial before: 2 s become 3 s; memory is no matter of time."""
    memory = MemoryBreakdown(parameters=5)
    trial = Prediction(time=TimeBreakdown(forward=1.0, backward=1.0), low=1.6, high=2.4, memory=memory, energy=10.0)
    found = scaled(trial, 1.5)
    assert found.time == TimeBreakdown(forward=1.5, backward=1.5)
    assert (found.low, found.high, found.energy) == (pytest.approx(2.4), pytest.approx(3.6), 15.0)
    assert found.memory == memory


def test_what_a_script_imported_counts_and_its_tensors_do_not() -> None:
    """64 MiB that no tensor of the job holds are context; the same 64 MiB as a buffer of the model are not."""
    small, batch = job(), (torch.ones(4, 8),)
    before = context_of(small, batch)
    ballast = torch.ones(16 * 2**20)
    assert abs(context_of(small, batch) - before - ballast.nbytes) < 8 * 2**20
    small.model.register_buffer("ballast", ballast)
    assert abs(context_of(small, batch) - before) < 8 * 2**20


def test_context_is_never_below_what_the_probe_measured() -> None:
    cluster = machine()
    probed = cluster.hosts[0].device.context
    assert with_context(cluster, probed + 5).hosts[0].device.context == probed + 5
    assert with_context(cluster, probed - 5) == cluster


def test_a_trial_has_the_time_that_is_left_of_planning_and_two_seconds_at_least(monkeypatch) -> None:
    monkeypatch.setattr(_planning.time, "time", lambda: psutil.Process().create_time() + 3.0)
    assert trial_budget() == pytest.approx(_planning.PLANNING_TIME - 3.0)
    monkeypatch.setattr(_planning.time, "time", lambda: psutil.Process().create_time() + 60.0)
    assert trial_budget() == 2.0


def test_a_pinned_split_that_operations_do_not_show_is_found_in_the_program() -> None:
    """Layers outside of repeated blocks are split as the program can be; what it cannot is refused with its reason."""
    layers = (torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    model, batch = torch.nn.Sequential(*layers), (torch.randn(8, 8), torch.randn(8, 4))
    job = Job(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss=lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1]),
    )
    graph = capture(job.model, job.optimizer, job.loss, batch)
    derived = with_splits(graph).splits
    assert derived is not None
    assert derived.tensor is None
    assert with_pinned_splits(job, batch, graph, Pins()) is graph
    found = with_pinned_splits(job, batch, graph, Pins(tensor=2)).splits
    assert found is not None
    assert found.tensor is not None
    assert found.tensor.degrees == (2,)
    assert {one.path for one in found.tensor.parameters} >= {"0.weight", "2.weight"}
    assert found.tensor.operations
    assert found.tensor.whole
    unasked = with_tensor_axis(job, batch, graph, most=4).splits
    assert unasked is not None
    assert unasked.tensor is not None
    assert unasked.tensor.degrees == (2, 4)
    assert unasked.tensor.parameters == found.tensor.parameters
    assert with_tensor_axis(job, batch, graph, most=1) is graph
    with pytest.raises(PlanError, match="tensor = 7: no parameter can be split over 7 workers"):
        with_pinned_splits(job, batch, graph, Pins(tensor=7))
