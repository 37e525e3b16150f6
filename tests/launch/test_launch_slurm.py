"""Under srun every task knows its place; in a batch script there is none."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from launch_builders import run_folder
from meshwright.errors import LossError, UsageError, WorkerError
from meshwright.launch import Task, announce_failure, announce_start, await_start, slurm_task
from meshwright.launch._slurm import first_host

TASK = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("login", "login"),
        ("a,b", "a"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[3,5]-ib,x", "gpu3-ib"),
        ("node-1-[0010-0012]", "node-1-0010"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_an_empty_list_is_no_list() -> None:
    with pytest.raises(UsageError, match="is no Slurm host list"):
        first_host("")


def test_a_task_of_srun() -> None:
    assert slurm_task(TASK) == Task(rank=3, num_tasks=4, local_rank=1, num_hosts=2, address="gpu07", name="slurm-42.1")


def test_tasks_of_one_host_meet_at_home() -> None:
    found = slurm_task({**TASK, "SLURM_STEP_NUM_NODES": "1"})
    assert found is not None
    assert found.address == "127.0.0.1"


def test_a_requeued_job_is_another_run() -> None:
    found = slurm_task({**TASK, "SLURM_RESTART_COUNT": "2"})
    assert found is not None
    assert found.name == "slurm-42.1-restart-2"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "42", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},
        {**TASK, "SLURM_STEP_ID": str(0xFFFFFFFA)},
    ],
    ids=["no Slurm", "batch script", "interactive shell"],
)
def test_elsewhere_there_is_no_task(environment: dict[str, str]) -> None:
    assert slurm_task(environment) is None


def test_a_missing_variable_is_named() -> None:
    environment = {name: value for name, value in TASK.items() if name != "SLURM_LOCALID"}
    with pytest.raises(UsageError, match="SLURM_LOCALID is not set"):
        slurm_task(environment)


def _task(rank: int) -> Task:
    return Task(rank=rank, num_tasks=2, local_rank=rank, num_hosts=1, address="127.0.0.1", name="slurm-1.0")


def test_the_others_wait_for_task_0_and_learn_the_port(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    heard: list[Task] = []
    waiting = threading.Thread(target=lambda: heard.append(await_start(_task(1), folder=folder, limit=30)))
    waiting.start()
    led = announce_start(_task(0), folder=folder)
    waiting.join()
    assert led.port > 0
    assert heard == [replace(_task(1), port=led.port)]


def test_the_others_fail_as_task_0_failed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    announce_failure(LossError("the loss is nan"), folder=folder)
    with pytest.raises(LossError, match="the loss is nan"):
        await_start(_task(1), folder=folder, limit=30)


def test_the_others_do_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="task 1 heard nothing of task 0"):
        await_start(_task(1), folder=run_folder(tmp_path), limit=0)
