"""What a process is asked to do, from its environment."""

from pathlib import Path

import pytest

from meshwright.errors import UsageError
from meshwright.run import Role, role_of
from meshwright.run._role import first_host


def test_plain_python_is_alone():
    assert role_of({}) == Role(kind="alone")


def test_torchrun_without_a_command_of_ours_is_joined():
    environment = {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a", "MASTER_PORT": "7",
    }  # fmt: skip
    expected = Role(kind="joined", rank=3, local_rank=1, world_size=4, local_world_size=2, master=("a", 7))
    assert role_of(environment) == expected


def test_one_process_of_torchrun_is_alone():
    assert role_of({"RANK": "0", "WORLD_SIZE": "1"}).kind == "alone"


def test_srun_is_joined_and_meets_on_its_first_host():
    environment = {
        "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "20011",
    }  # fmt: skip
    role = role_of(environment)
    assert (role.kind, role.rank, role.local_rank, role.world_size, role.local_world_size) == ("joined", 5, 1, 8, 4)
    assert role.master == ("gpu07", 20011)


def test_a_batch_script_of_slurm_is_alone():
    assert role_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "9"}).kind == "alone"


def test_a_command_says_role_folder_and_documents():
    environment = {
        "MESHWRIGHT_ROLE": "verify", "MESHWRIGHT_FOLDER": "out", "MESHWRIGHT_PLAN": "p.toml", "MESHWRIGHT_STEPS": "7",
        "MESHWRIGHT_TIMEOUT": "20",
    }  # fmt: skip
    role = role_of(environment)
    assert (role.kind, role.folder, role.plan, role.steps, role.timeout) == (
        "verify", Path("out"), Path("p.toml"), 7, 20.0,
    )  # fmt: skip
    assert role.goal is None


@pytest.mark.parametrize(
    ("nodes", "host"), [("n1", "n1"), ("n[1-2]", "n1"), ("a,b", "a"), ("gpu[07,09-12],x", "gpu07"), ("a-b[3]", "a-b3")]
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_unknown_role_and_broken_number_are_refused():
    with pytest.raises(UsageError, match="MESHWRIGHT_ROLE is 'plann'") as caught:
        role_of({"MESHWRIGHT_ROLE": "plann"})
    assert caught.value.cause == "did you mean 'plan'?"
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        role_of({"RANK": "0", "WORLD_SIZE": "two"})
