"""The process around a script: its place, its path, its errors and its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_jobs import strategy

import meshwright as mw
from meshwright.cost import Measurement, MemoryBreakdown, Prediction, TimeBreakdown, Verification
from meshwright.documents import read_toml
from meshwright.errors import BatchError, LossError, UsageError, WorkerError, from_json
from meshwright.plan import write_plan

TRAIN = """
import sys
import torch
import meshwright as mw
import beside

model = torch.nn.Linear(3, 2)
step = mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1), beside.loss)
for number in range(int(sys.argv[1])):
    value = step((torch.ones(4, 3), torch.zeros(4, dtype=torch.long)))
    {body}
if step.is_main:
    print(__name__, sys.argv[1:], torch.get_num_threads())
"""
BESIDE = """
import torch.nn.functional as F

def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])
"""


class Place:
    """A folder with a script, a module beside it, and plans."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = python
        self.out = folder / "out"
        (folder / "beside.py").write_text(BESIDE)
        prediction = Prediction(time=TimeBreakdown(forward=1.0), low=1.0, high=1.0, memory=MemoryBreakdown())
        for count in (1, 2):
            plan = mw.Plan(model="Linear", strategy=strategy(4, count), prediction=prediction)
            write_plan(plan, folder / f"plan{count}.toml")

    def script(self, body="pass", *, text=TRAIN):
        (self.folder / "train.py").write_text(text.replace("{body}", body))

    def start(self, *arguments, role="run", rank=0, world_size=1, port=0, script="train.py", python=None):
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        environment |= {
            "MESHWRIGHT_ROLE": role, "MESHWRIGHT_FOLDER": str(self.out),
            "MESHWRIGHT_PLAN": str(self.folder / f"plan{world_size}.toml"),
            "MESHWRIGHT_STEPS": "2", "MESHWRIGHT_TIMEOUT": "30",
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        command = [python or self.python, "-m", "meshwright.run.worker", script, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def error(self, rank=0):
        return from_json((self.out / "workers" / f"rank-{rank}.error.json").read_text())

    def measurement(self):
        return read_toml(Measurement, self.out / "measurement.toml")


@pytest.fixture
def place(tmp_path, starter):
    """A folder to run a script in; workers are forked unless a test starts them with an interpreter of its own."""
    return Place(tmp_path, starter.python)


def ended(process):
    """Output, errors and exit code of a process."""
    out, err = process.communicate(timeout=90)
    return out, err, process.returncode


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_script_runs_as_python_would_run_it(place):
    place.script()
    out, err, code = ended(place.start("3", "--flag", python=sys.executable))
    assert (out, err, code) == ("__main__ ['3', '--flag'] 1\n", "", 0)
    found = place.measurement()
    assert (found.status, found.steps) == ("finished", 3)


def test_two_workers_run_and_one_speaks(place):
    place.script()
    port = free_port()
    both = [place.start("3", rank=rank, world_size=2, port=port) for rank in range(2)]
    ends = [ended(process) for process in both]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert [out for out, _, _ in ends] == ["__main__ ['3'] 1\n", ""]
    found = place.measurement()
    assert (found.steps, len(found.memory_by_rank), found.memory) == (3, 2, max(found.memory_by_rank))
    assert sorted(path.name for path in (place.out / "workers").iterdir()) == ["rank-0.toml", "rank-1.toml"]


def test_the_role_verify_compares_and_ends_the_script(place):
    place.script("assert number < 2")
    out, err, code = ended(place.start("5", role="verify"))
    assert (out, err, code) == ("", "", 0)
    found = read_toml(Verification, place.out / "verification.toml")
    assert (found.equal, found.steps, found.gradient) == (True, 2, 0.0)


def test_a_script_with_fewer_steps_than_asked_for_is_verified_on_those(place):
    place.script()
    assert ended(place.start("1", role="verify"))[2] == 0
    assert read_toml(Verification, place.out / "verification.toml").steps == 1


@pytest.mark.parametrize(
    ("text", "role", "fact"),
    [
        ("print('hello')", "run", "train.py ended without a call of mw.parallel"),
        (TRAIN.replace("{body}", "pass").replace("range(int(sys.argv[1]))", "[]"), "verify", "without a call of step"),
    ],
)
def test_a_script_that_hands_nothing_over_is_told_what_to_write(place, text, role, fact):
    place.script(text=text)
    _, err, code = ended(place.start("3", role=role))
    assert (err, code) == ("", UsageError.exit_code)
    assert fact in place.error().fact
    assert "mw.parallel(model, optimizer, loss)" in str(place.error())
    assert json.loads((place.out / "workers" / "rank-0.error.json").read_text())["exit_code"] == 2


def test_a_wrong_path_is_an_error(place):
    assert ended(place.start(script="trian.py"))[2] == UsageError.exit_code
    assert place.error().fact == "no script at trian.py"


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_its_records(place):
    place.script("model.weight.data.fill_(float('nan'))")
    _, err, code = ended(place.start("9"))
    assert (err, code) == ("", LossError.exit_code)
    assert place.error().fact == "the loss is nan in step 2"
    found = place.measurement()
    assert (found.status, found.steps, found.reason) == ("failed", 1, "the loss is nan in step 2")
    assert len((place.out / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_mistake_in_the_script_shows_the_script_and_nothing_of_ours(place):
    place.script("undefined_name")
    _, err, code = ended(place.start("2"))
    assert code == 1
    assert err.startswith('Traceback (most recent call last):\n  File "train.py", line 11, in <module>')
    assert err.endswith("NameError: name 'undefined_name' is not defined\n")
    assert place.measurement().status == "failed"


def test_sys_exit_is_kept(place):
    place.script("sys.exit(7)")
    assert ended(place.start("2"))[2] == 7
    assert (place.measurement().status, place.measurement().reason) == ("failed", "the script left with 7")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_leaves_a_valid_record(place, number):
    place.script("import time; time.sleep(0.02)")
    port = free_port()
    both = [place.start("100000", rank=rank, world_size=2, port=port) for rank in range(2)]
    wait_for(place.out / "metrics.jsonl", both)
    for process in both:
        process.send_signal(number)
    ends = [ended(process) for process in both]
    assert [code for _, _, code in ends] == [130, 130], ends
    assert place.measurement().status == "interrupted"
    assert place.measurement().steps == len((place.out / "metrics.jsonl").read_text().splitlines())


def test_a_worker_that_dies_ends_the_other_with_a_reason(place):
    place.script("import os; step.is_main or number < 1 or os._exit(9)")
    port = free_port()
    both = [place.start("100000", rank=rank, world_size=2, port=port) for rank in range(2)]
    ends = [ended(process) for process in both]
    assert [code for _, _, code in ends] == [WorkerError.exit_code, 9], ends
    assert "worker 0 waited for another worker that is gone" in place.error().fact
    assert place.measurement().status == "failed"


def test_a_port_in_use_is_named(place):
    place.script()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = place.start("1", rank=0, world_size=2, port=port)
        assert ended(process)[2] == WorkerError.exit_code
    assert place.error().fact == f"port {port} on 127.0.0.1 is in use"


def test_a_worker_ends_with_its_parent(place):
    place.script("open('pid', 'w').write(str(__import__('os').getpid())); import time; time.sleep(0.02)")
    starter = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'meshwright.run.worker', 'train.py', '100000'])\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {
        "MESHWRIGHT_ROLE": "run", "MESHWRIGHT_FOLDER": str(place.out), "MESHWRIGHT_PLAN": "plan1.toml",
    }  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", starter], cwd=place.folder, env=environment)
    wait_for(place.folder / "pid", [parent])
    parent.kill()
    parent.wait()
    wait_for(place.out / "measurement.toml", [])
    assert place.measurement().status == "interrupted"


def test_a_batch_of_size_zero_is_refused(place):
    place.script("value = step((torch.ones(0, 3), torch.zeros(0, dtype=torch.long)))")
    port = free_port()
    both = [place.start("1", rank=rank, world_size=2, port=port) for rank in range(2)]
    assert [ended(process)[2] for process in both] == [BatchError.exit_code] * 2
    assert "a batch of size 0" in place.error().fact


def wait_for(path, processes):
    """Waits until a file has content; fails where a process has ended before."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"no {path}"
        assert all(process.poll() is None for process in processes), [ended(process) for process in processes]
        time.sleep(0.02)
