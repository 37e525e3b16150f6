"""Real runs of one tiny script that end well: on one worker, on two, on two hosts, under srun and under torchrun."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from launch_builders import LIMIT, LOOP_SCRIPT, last_folder, run_tiny, start_tiny
from meshwright.cost import Measurement
from meshwright.documents import read_toml
from meshwright.hardware import write_cluster
from meshwright.launch import RunFolder, latest_run
from planning_builders import machine
from starter import Starter


def test_one_worker_s_output_goes_on_untouched_and_the_result_stands_beside_it(place: Path) -> None:
    code, out, err = run_tiny(place, "--plan one.toml --steps 12", "ok --lr 3")
    assert (code, out) == (0, "begins ['ok', '--lr', '3']\nends\n")
    folder = last_folder(place)
    assert re.search(r"^step 12/12 · loss \d\.\d{4} · [\d,]+ samples/s · [\d.]+ MiB$", err, re.MULTILINE)
    assert f"finished after 12 steps; report: outputs/{folder.path.name}/report.html" in err
    assert "predicted" in err
    assert (folder.path / "report.html").is_file()
    assert len(folder.metrics.read_text(encoding="utf-8").splitlines()) == 12
    values = tomllib.loads(folder.record.read_text(encoding="utf-8"))["values"]
    assert values["steps"] == {"value": 12, "origin": "command line"}
    assert values["output"] == {"value": "outputs", "origin": "default"}
    assert values["plan.workers"] == {"value": "1", "origin": "file"}


def test_two_workers_are_started_by_torch_s_agent_and_the_result_is_one_object(place: Path) -> None:
    code, out, err = run_tiny(place, "--plan two.toml --json", "ok")
    assert code == 0, err
    result = json.loads(out)
    assert result["measurement"]["status"] == "finished"
    assert result["measurement"]["steps"] == 12
    assert len(result["measurement"]["memory_by_rank"]) == 2
    assert "begins ['ok']\n" in err
    folder = RunFolder(path=place / result["folder"])
    assert folder.log(1, "out").read_text(encoding="utf-8") == "begins ['ok']\nends\n"
    assert (place / result["report"]).is_file()


def test_a_hand_written_loop_runs_under_a_plan(place: Path, starter: Starter) -> None:
    """Two workers give the loss of one, steps are counted and timed, and what the loop costs is said."""
    script = place / "tiny.py"
    script.write_text(LOOP_SCRIPT, encoding="utf-8")
    alone = subprocess.run([starter.python, str(script)], capture_output=True, text=True, timeout=LIMIT, check=True)
    code, out, err = run_tiny(place, "--plan two.toml", "ok", python=starter.python)
    assert code == 0, err
    assert alone.stdout.strip() in out
    folder = last_folder(place)
    assert read_toml(Measurement, folder.measurement).steps == 6
    assert "receives 64 B of outputs per call" in folder.log(0, "err").read_text(encoding="utf-8")


def test_two_hosts_meet_and_run_as_one(place: Path, starter: Starter) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = f"--nodes 2 --rendezvous localhost:{port}"
    options = f"{common} --node-rank 0 --plan hosts.toml --output first --json"
    first = start_tiny(place, options, "ok", python=starter.python)
    second = start_tiny(place, f"{common} --node-rank 1 --output second", "ok", python=starter.python)
    out, err = first.communicate(timeout=LIMIT)
    _, other = second.communicate(timeout=LIMIT)
    assert (first.returncode, second.returncode) == (0, 0), err + other
    assert len(json.loads(out)["measurement"]["memory_by_rank"]) == 2
    folder = latest_run(place / "second")
    assert folder.log(1, "out").read_text(encoding="utf-8") == "begins ['ok']\nends\n"
    assert folder.plan.read_text(encoding="utf-8") == latest_run(place / "first").plan.read_text(encoding="utf-8")


def test_tasks_of_srun_are_the_workers(place: Path, starter: Starter) -> None:
    tasks = [
        start_tiny(
            place,
            "--plan two.toml",
            "ok",
            python=starter.python,
            SLURM_JOB_ID="7",
            SLURM_STEP_ID="0",
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            SLURM_STEP_NUM_TASKS="2",
            SLURM_STEP_NUM_NODES="1",
            SLURM_STEP_NODELIST="here",
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=LIMIT) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert said[0][0] == "begins ['ok']\nends\n"
    folder = RunFolder(path=place / "outputs" / "tiny-slurm-7.0")
    measurement = read_toml(Measurement, folder.measurement)
    assert (measurement.status, len(measurement.memory_by_rank)) == ("finished", 2)


def test_torchrun_starts_the_same_script(place: Path) -> None:
    write_cluster(machine(), place / "cluster.toml")
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 tiny.py ok"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=place,
        env={**os.environ, "MESHWRIGHT_CLUSTER": str(place / "cluster.toml")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    (measured,) = place.glob("outputs/*/measurement.toml")
    assert len(read_toml(Measurement, measured).memory_by_rank) == 2
