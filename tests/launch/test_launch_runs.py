"""Real runs of one tiny script: however they end, the message says why, the folder is whole and no process is left."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from launch_builders import LOOP_SCRIPT, cluster, plan, tiny_script
from meshwright.cost import Measurement
from meshwright.documents import read_toml
from meshwright.hardware import write_cluster
from meshwright.launch import RunFolder, latest_run
from meshwright.plan import write_plan
from planning_builders import machine

LIMIT = 120.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the script, a plan for one worker, one for two, one for two hosts, and a cluster."""
    tiny_script(tmp_path)
    write_cluster(cluster(), tmp_path / "cluster.toml")
    write_plan(plan(1), tmp_path / "one.toml")
    write_plan(plan(2), tmp_path / "two.toml")
    write_plan(plan(2, hosts=("first", "second")), tmp_path / "hosts.toml")
    return tmp_path


def _start(place: Path, options: str, mode: str, *, verb: str = "run", **variables: str) -> subprocess.Popen[str]:
    command = f"{verb} --cluster cluster.toml {options} {place / 'tiny.py'} {mode}"
    return subprocess.Popen(
        [sys.executable, "-m", "meshwright.cli", *command.split()],
        cwd=place,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(place: Path, options: str, mode: str, *, verb: str = "run") -> tuple[int, str, str]:
    process = _start(place, options, mode, verb=verb)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def test_a_hand_written_loop_runs_under_a_plan(place: Path) -> None:
    """Two workers give the loss of one, steps are counted and timed, and what the loop costs is said."""
    script = place / "tiny.py"
    script.write_text(LOOP_SCRIPT, encoding="utf-8")
    alone = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT, check=True)
    code, out, err = _run(place, "--plan two.toml", "ok")
    assert code == 0, err
    assert alone.stdout.strip() in out
    folder = _folder(place)
    assert read_toml(Measurement, folder.measurement).steps == 6
    assert "receives 64 B of outputs per call" in folder.log(0, "err").read_text(encoding="utf-8")


def _folder(place: Path) -> RunFolder:
    return latest_run(place / "outputs")


def _left(place: Path) -> list[Sequence[str]]:
    """Command lines of processes that still work for the script."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(place) in word for word in words):
            found.append(words)
    return found


def _wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def _steps_are_recorded(place: Path) -> bool:
    return any(path.stat().st_size > 0 for path in place.glob("outputs/*/metrics.jsonl"))


def test_one_worker_s_output_goes_on_untouched_and_the_result_stands_beside_it(place: Path) -> None:
    code, out, err = _run(place, "--plan one.toml --steps 12", "ok --lr 3")
    assert (code, out) == (0, "begins ['ok', '--lr', '3']\nends\n")
    folder = _folder(place)
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
    code, out, err = _run(place, "--plan two.toml --json", "ok")
    assert code == 0, err
    result = json.loads(out)
    assert result["measurement"]["status"] == "finished"
    assert result["measurement"]["steps"] == 12
    assert len(result["measurement"]["memory_by_rank"]) == 2
    assert "begins ['ok']\n" in err
    folder = RunFolder(path=place / result["folder"])
    assert folder.log(1, "out").read_text(encoding="utf-8") == "begins ['ok']\nends\n"
    assert (place / result["report"]).is_file()


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [
        ("vector", 9, "meshwright: the loss has shape [8]; it has to be a scalar\n"),
        ("nan", 9, "meshwright: the loss is nan in step 1\n"),
        ("exit", 10, "meshwright: worker 0 ended with exit code 7\n"),
        ("raise", 10, "meshwright: worker 0 ended with exit code 1: ValueError: the fifth batch is odd\n"),
    ],
)
def test_what_ends_one_worker_is_named(place: Path, mode: str, code: int, message: str) -> None:
    found, _, err = _run(place, "--plan one.toml", mode)
    assert found == code
    assert message in err
    assert read_toml(Measurement, _folder(place).measurement).status == "failed"
    assert (_folder(place).path / "report.html").is_file()
    assert err.count("ValueError: the fifth batch is odd\n") == (2 if mode == "raise" else 0)


def test_a_killed_worker_ends_the_other_and_is_named(place: Path) -> None:
    code, _, err = _run(place, "--plan two.toml", "kill")
    folder = _folder(place)
    name = f"outputs/{folder.path.name}"
    assert code == 10
    assert err.endswith(
        "meshwright: worker 1 was killed by signal 9 (SIGKILL)\n"
        "  because: something outside the run killed it; the operating system does so when memory runs out; "
        f"{name}/logs/rank-1.err is empty\n"
        "  instead: leave memory for the rest of the machine: meshwright run --memory SIZE SCRIPT\n"
        f"  next:    python {place}/tiny.py kill\n"
    )
    measurement = read_toml(Measurement, folder.measurement)
    assert (measurement.status, measurement.reason) == ("failed", "worker 1 was killed by signal 9 (SIGKILL)")
    assert measurement.steps >= 1
    assert _left(place) == []


def test_ctrl_c_ends_every_worker_and_leaves_a_whole_folder(place: Path) -> None:
    process = _start(place, "--plan two.toml --json", "long")
    _wait_for(lambda: _steps_are_recorded(place), "a first step")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    measurement = json.loads(out)["measurement"]
    assert measurement["status"] == "interrupted"
    folder = _folder(place)
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, measurement["steps"] + 1))
    assert all(path.is_file() for path in (folder.record, folder.plan, folder.measurement, folder.path / "report.html"))
    assert _left(place) == []


def test_workers_do_not_outlive_a_killed_launcher(place: Path) -> None:
    process = _start(place, "--plan two.toml", "long")
    _wait_for(lambda: _steps_are_recorded(place), "a first step")
    process.kill()
    process.communicate(timeout=LIMIT)
    _wait_for(lambda: _left(place) == [], "the workers' end")


def test_two_hosts_meet_and_run_as_one(place: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = f"--nodes 2 --rendezvous localhost:{port}"
    first = _start(place, f"{common} --node-rank 0 --plan hosts.toml --output first --json", "ok")
    second = _start(place, f"{common} --node-rank 1 --output second", "ok")
    out, err = first.communicate(timeout=LIMIT)
    _, other = second.communicate(timeout=LIMIT)
    assert (first.returncode, second.returncode) == (0, 0), err + other
    assert len(json.loads(out)["measurement"]["memory_by_rank"]) == 2
    folder = latest_run(place / "second")
    assert folder.log(1, "out").read_text(encoding="utf-8") == "begins ['ok']\nends\n"
    assert folder.plan.read_text(encoding="utf-8") == latest_run(place / "first").plan.read_text(encoding="utf-8")


def test_tasks_of_srun_are_the_workers(place: Path) -> None:
    tasks = [
        _start(
            place,
            "--plan two.toml",
            "ok",
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


def test_a_plan_that_computes_the_same_is_proved(place: Path) -> None:
    code, out, err = _run(place, "--plan two.toml --steps 2 --json", "ok", verb="verify")
    assert code == 0, err
    found = json.loads(out)
    assert (found["equal"], found["steps"], len(found["losses"])) == (True, 2, 2)


def test_a_script_whose_workers_compute_something_else_is_found_out(place: Path) -> None:
    """The last of two workers triples its loss: the gradient of its half is three times what it should be."""
    code, out, err = _run(place, "--plan two.toml --json", "unequal", verb="verify")
    assert code == 4, err
    found = json.loads(out)
    assert found["equal"] is False
    assert found["gradient"] > 0.1


@pytest.mark.parametrize(
    ("mode", "code", "dtype", "told"),
    [
        ("kink", 0, "float64", r"in float32 gradients differ by \d\.\de-04: a rounding moves elements over a kink"),
        ("near", 4, "float32", r"in float64 gradients differ by \d\.\de-04 too"),
    ],
)
def test_where_float32_is_near_float64_decides(place: Path, mode: str, code: int, dtype: str, told: str) -> None:
    """The last worker's gradient is off by a thousandth: in float32 only, or in any data type."""
    ended, out, err = _run(place, "--plan two.toml --json", mode, verb="verify")
    assert ended == code, err
    found = json.loads(out)
    assert (found["equal"], found["dtype"]) == (code == 0, dtype)
    assert re.match(told, found["notes"][-1]), found["notes"]


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
