"""Plans, folders and the one tiny script that the tests of launching and of the command line share."""

import os
import subprocess
import sys
from pathlib import Path

from meshwright.cost import Batch, MemoryBreakdown, Mesh, Prediction, Strategy, TimeBreakdown, Worker
from meshwright.hardware import Cluster, Device, Host
from meshwright.launch import RunFolder, latest_run
from meshwright.plan import Candidate, Plan
from meshwright.units import GIB

LIMIT = 120.0
TINY_SCRIPT = """
import os, signal, sys, time

import torch

import meshwright as mw

mode, last = sys.argv[1], int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
torch.manual_seed(0)
model = torch.nn.Linear(16, 4)
calls = 0


def loss(model, batch):
    global calls
    calls += 1
    if calls == 5 and last:
        if mode == "exit":
            os._exit(7)
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "raise":
            raise ValueError("the fifth batch is odd")
    value = torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    if mode == "vector":
        return value
    odd = float("nan") if mode == "nan" else 3.0 if mode == "unequal" and last else 1.0
    slips = last and (mode == "near" or (mode == "kink" and model.weight.dtype == torch.float32))
    mean = value.mean() * odd
    return mean + 1e-3 * (mean - mean.detach()) if slips else mean


print("begins", sys.argv[1:])
step = mw.parallel(model, torch.optim.SGD(model.parameters(), lr=0.1), loss)
size = 0 if mode == "empty" else 8
for number in range(10**9 if mode == "long" else 0 if mode == "none" else 12):
    random = torch.Generator().manual_seed(number)
    step((torch.randn(size, 16, generator=random), torch.randint(0, 4, (size,), generator=random)))
    if mode == "long":
        time.sleep(0.01)
print("ends")
"""


LOOP_SCRIPT = """
import torch

import meshwright as mw

torch.manual_seed(0)
model = mw.parallel(torch.nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for number in range(6):
    random = torch.Generator().manual_seed(number)
    x, y = torch.randn(8, 16, generator=random), torch.randint(0, 4, (8,), generator=random)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(f"{loss.item():.6f}")
"""


def tiny_script(folder: Path) -> Path:
    """The script: its first argument says what goes wrong; `ok` for nothing."""
    script = folder / "tiny.py"
    script.write_text(TINY_SCRIPT, encoding="utf-8")
    return script


def cluster(*, cores: int = 2, identity: str = "elsewhere") -> Cluster:
    """One host; by its identity not this machine, so that nothing is learnt about this one."""
    device = Device(kind="cpu", name="processor", cores=cores, memory=8 * GIB, context=GIB // 4, source="a test")
    return Cluster(name="test", identity=identity, hosts=(Host(name="host", device=device),))


def plan(num_workers: int = 1, *, hosts: tuple[str, ...] = ("host",)) -> Plan:
    """A plan of the tiny script: equal shares, one thread each, the workers spread evenly over the hosts."""
    workers = tuple(
        Worker(rank=rank, host=hosts[rank * len(hosts) // num_workers], device="cpu", threads=1)
        for rank in range(num_workers)
    )
    strategy = Strategy(
        workers=workers,
        mesh=Mesh(dp_replicate=num_workers),
        batch=Batch(size=8, shares=(1,) * num_workers),
    )
    prediction = Prediction(
        time=TimeBreakdown(forward=0.001, backward=0.002),
        low=0.002,
        high=0.004,
        memory=MemoryBreakdown(context=GIB // 4),
    )
    return Plan(
        model="Linear",
        strategy=strategy,
        prediction=prediction,
        candidates=(Candidate(summary=strategy.summary, step=0.004),),
    )


def run_folder(path: Path) -> RunFolder:
    """An empty folder of a run."""
    folder = RunFolder(path=path)
    folder.prepare()
    return folder


def start_tiny(
    place: Path, options: str, mode: str, *, verb: str = "run", python: str = sys.executable, **variables: str
) -> subprocess.Popen[str]:
    """Starts a command on the tiny script and the cluster of a folder.

    Args:
        place: the folder.
        options: of the command.
        mode: what goes wrong in the script, and further arguments of it.
        verb: of the command.
        python: the interpreter.
        variables: of its environment, beside those there are.
    """
    command = f"{verb} --cluster cluster.toml {options} {place / 'tiny.py'} {mode}"
    return subprocess.Popen(
        [python, "-m", "meshwright.cli", *command.split()],
        cwd=place,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_tiny(
    place: Path, options: str, mode: str, *, verb: str = "run", python: str = sys.executable
) -> tuple[int, str, str]:
    """Exit code, output and errors of `start_tiny`."""
    process = start_tiny(place, options, mode, verb=verb, python=python)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def last_folder(place: Path) -> RunFolder:
    """The folder of the last run in a folder."""
    return latest_run(place / "outputs")
