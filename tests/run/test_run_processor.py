"""Cores, threads and devices of a worker."""

import os
import subprocess
import sys

import pytest

from meshwright.cost import Worker
from meshwright.run._processor import pin, prepare

ONE_CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
PINNED = """
import os, sys, threading, time
from meshwright.cost import Worker
from meshwright.run._processor import prepare
core = int(sys.argv[1])
threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
prepare(Worker(rank=0, host="here", device="cpu", threads=1, cores=(core,)))
import torch
tasks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
assert tasks and all(cores == {core} for cores in tasks), tasks
assert torch.get_num_threads() == 1
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Puts back what a test sets."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def worker(device="cpu", threads=1, cores=()):
    return Worker(rank=2, host="here", device=device, threads=threads, cores=cores)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins threads")
def test_all_threads_of_a_worker_are_on_its_cores():
    subprocess.run([sys.executable, "-c", PINNED, str(ONE_CORE)], check=True, timeout=90)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins threads")
def test_cores_that_are_not_to_be_had_are_named(capsys):
    before = os.sched_getaffinity(0)
    pin(worker(cores=(ONE_CORE, 4095)))
    assert os.sched_getaffinity(0) == before
    assert capsys.readouterr().err == (
        f"meshwright: worker 2 is planned on cores [{ONE_CORE}, 4095], of which this process may use [{ONE_CORE}]; "
        "it is not pinned\n"
    )


def test_threads_are_set_for_what_torch_loads():
    prepare(worker(threads=3))
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")


@pytest.mark.parametrize(
    ("before", "device", "after"),
    [(None, "cuda:1", "1"), ("4,6", "cuda:1", "6"), ("GPU-a,GPU-b", "cuda:0", "GPU-a"), (None, "cpu", None)],
)
def test_a_worker_sees_its_own_gpu_only(monkeypatch, before, device, after):
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    prepare(worker(device=device))
    assert (os.environ["CUDA_VISIBLE_DEVICES"] or None) == after
