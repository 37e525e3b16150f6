"""What a worker is told, and what it must not inherit."""

from pathlib import Path

from meshwright.launch._environment import place, worker_environment


def test_a_worker_knows_its_role_and_documents_by_absolute_paths(tmp_path: Path) -> None:
    told = worker_environment(
        "verify",
        folder=tmp_path,
        goal=Path("goal.toml"),
        cluster=tmp_path / "cluster.toml",
        plan=tmp_path / "plan.toml",
        steps=5,
        inherited={},
    )
    assert told == {
        "MESHWRIGHT_ROLE": "verify",
        "MESHWRIGHT_FOLDER": str(tmp_path),
        "MESHWRIGHT_GOAL": str(Path.cwd() / "goal.toml"),
        "MESHWRIGHT_CLUSTER": str(tmp_path / "cluster.toml"),
        "MESHWRIGHT_PLAN": str(tmp_path / "plan.toml"),
        "MESHWRIGHT_STEPS": "5",
        "PYTHONUNBUFFERED": "1",
    }


def test_another_launcher_s_place_is_not_inherited(tmp_path: Path) -> None:
    inherited = {"RANK": "3", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "MESHWRIGHT_PLAN": "old"}
    kept = {"PATH": "/bin", "MESHWRIGHT_CACHE": "/cache", "CUDA_VISIBLE_DEVICES": "1"}
    told = worker_environment("plan", folder=tmp_path, goal=tmp_path, cluster=tmp_path, inherited={**inherited, **kept})
    assert not told.keys() & inherited.keys()
    assert kept.items() <= told.items()


def test_a_place_has_torchrun_s_names() -> None:
    assert place(3, world_size=4, address="first", port=29500, local_rank=1) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "29500",
    }
