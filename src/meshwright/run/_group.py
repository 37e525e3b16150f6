"""The processes of a run, met and parted in bounded time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

# Its functions' defaults are the group of all at the time of its first import (by torch's optimizers, at their first
# step); a group that they hold is never taken apart, and its threads live until the process ends.
import torch.distributed.nn

from meshwright.errors import WorkerError
from meshwright.run._role import Role

PORT_IN_USE = ("EADDRINUSE", "address already in use", "Address already in use")
MEET = "meet"


def use_loopback(role: Role) -> None:
    """Keeps the exchange of workers that share one host off the network; before torch's first collective."""
    if role.master[0] in ("127.0.0.1", "localhost") and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def meet(role: Role) -> None:
    """Joins the group of all workers, and gives this one its accelerator.

    Raises:
        WorkerError: the port is taken, or not all workers came in time.
    """
    use_loopback(role)
    host, port = role.master
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(role.local_rank % torch.accelerator.device_count())
    try:
        dist.init_process_group(
            _backend(), rank=role.rank, world_size=role.world_size, timeout=timedelta(seconds=role.timeout)
        )
    except (dist.DistNetworkError, dist.DistStoreError, RuntimeError, ValueError) as error:
        raise _no_meeting(role, str(error)) from error


@contextmanager
def failures_named(role: Role) -> Iterator[None]:
    """Turns torch's words for a peer that is gone into ours.

    Raises:
        WorkerError: a collective failed because another worker ended or did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(word in text for word in ("Connection closed", "Connection reset", "Broken pipe", "Timed out waiting")):
            raise WorkerError(
                f"worker {role.rank} waited for another worker that is gone or took longer than {role.timeout:.0f} s",
                cause=text.splitlines()[0],
                alternatives=["the worker that failed first says why; look at its own message or log"],
            ) from error
        raise


def part() -> None:
    """Leaves the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _backend() -> str:
    if not torch.accelerator.is_available():
        return "gloo"
    device = torch.accelerator.current_accelerator()
    assert device is not None
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"


def _no_meeting(role: Role, text: str) -> WorkerError:
    host, port = role.master
    if any(word in text for word in PORT_IN_USE):
        return WorkerError(
            f"port {port} on {host} is in use",
            cause="another program, or an earlier run that has not ended, listens there",
            alternatives=["another port: --rendezvous HOST:PORT, or MASTER_PORT under torchrun and srun"],
        )
    return WorkerError(
        f"worker {role.rank} of {role.world_size} met no other at {host}:{port} within {role.timeout:.0f} s",
        cause=text.splitlines()[0] if text else "no answer",
        alternatives=["start all workers", "open the port between the hosts", "name the host: MASTER_ADDR"],
    )
