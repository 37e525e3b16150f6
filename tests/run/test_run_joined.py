"""A script that srun starts several times by itself: the processes meet, plan and run."""

import os
import socket
import subprocess
import sys

from meshwright.cost import Measurement
from meshwright.documents import read_toml
from meshwright.hardware import write_cluster
from meshwright.plan import read_plan
from planning_builders import machine

SCRIPT = """
import atexit, os, pathlib
import torch
import torch.nn.functional as F
import meshwright as mw

@atexit.register
def name_threads():
    "What threads are left where Python takes itself apart; registered first, it runs last."
    names = {path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")}
    pathlib.Path(f"threads-{os.environ['SLURM_PROCID']}").write_text(",".join(sorted(names)))

torch.manual_seed(0)
model = torch.nn.Linear(5, 3)
loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
step = mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, plan={"transport": "gloo"})
data = torch.utils.data.TensorDataset(torch.randn(12, 5), torch.arange(12) % 3)
for batch in step.batches(torch.utils.data.DataLoader(data, batch_size=6, shuffle=True)):
    print(len(batch[0]), step(batch).item())
"""


def test_processes_of_srun_meet_plan_and_run(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    write_cluster(machine(), tmp_path / "cluster.toml")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": "77", "MASTER_PORT": str(port), "MESHWRIGHT_CLUSTER": str(tmp_path / "cluster.toml"),
    }  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    assert [line.split()[0] for line in ends[0][0].splitlines()] == ["3", "3"]
    [folder] = (tmp_path / "outputs").iterdir()
    assert folder.name.startswith("train-")
    assert read_plan(folder / "plan.toml").strategy.num_workers == 2
    found = read_toml(Measurement, folder / "measurement.toml")
    assert (found.status, found.steps, len(found.memory_by_rank)) == ("finished", 2, 2)
    left = {name for rank in range(2) for name in (tmp_path / f"threads-{rank}").read_text().split(",")}
    assert left
    assert not [name for name in left if "gloo" in name]
