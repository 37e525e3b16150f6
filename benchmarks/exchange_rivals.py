"""Rivals of other packages, trained by an interpreter that has them: torchft's DiLoCo, and Hivemind.

    python -m venv /tmp/rivals && /tmp/rivals/bin/pip install . torchft hivemind
    python benchmarks/exchange.py --rivals-python /tmp/rivals/bin/python --ways ddp torchft_diloco hivemind

Both train islands that agree every 16 steps, as Meshwright's local ways do, and each in its own manner:

torchft_diloco   the hosts wait for the sum of their ways in float32 (its quantization is for GPUs), and take an outer
                 step of the rate and momentum that Meshwright's local ways take; a lighthouse on host 0, a manager on
                 each host, gloo between them
hivemind         local updates; when its reports of progress say that the hosts together have seen the examples of 16
                 steps, parameters are averaged in 16 bits, which the next step waits for; peers find each other through
                 its hash table, over libp2p

What a rival would pass over in silence, meetings that failed, ends the run with what it says about them.
"""

import logging
import os
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from exchange_orders import INTERVAL, Order
from exchange_ways import OUTER_MOMENTUM, OUTER_RATE, PACKAGES, Loss, Step

# Where Hivemind leaves the ends of its pipes.
SOCKETS, SOCKET_NAMES = Path("/tmp"), "hivemind-p2p*.sock"
PATIENCE = 60.0  # s that a meeting may take
MATCHMAKING = 1.0  # s that hosts look for each other; Hivemind advises 3 for few of them, and less on a fast network
INSTALLATION = "python -m venv V && V/bin/pip install . torchft hivemind"


def obstacle(way: str, python: Path | None) -> str:
    """Why a rival cannot be run by an interpreter; empty: it can."""
    package = PACKAGES[way]
    if python is None:
        return f"no interpreter was named that has {package}: --rivals-python V/bin/python, where {INSTALLATION}"
    words = [str(python), "-c", f"import meshwright, {package}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python}: {error}"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"{python}: {lines[-1]}" if done.returncode else ""


def packaged_step(
    order: Order, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss
) -> tuple[Step, Callable[[], object]]:
    """A step on an equal share of the global batch, by the package of the order's way, and what ends it."""
    make = {"torchft_diloco": Torchft, "hivemind": Hivemind}[order.way]
    rival = make(order, model, optimizer)
    rank, size = dist.get_rank(), dist.get_world_size()

    def step(batch: Tensor) -> float:
        rival.optimizer.zero_grad()
        value = loss(model, batch.tensor_split(size)[rank])
        value.backward()
        rival.optimizer.step()
        return float(value.detach())

    return step, rival.close


class Torchft:
    """DiLoCo by torchft.

    Args:
        order: what is trained.
        model: on every host the same.
        optimizer: of the steps between two meetings.

    Attributes:
        optimizer: whose steps count.
    """

    def __init__(self, order: Order, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        del order
        from torchft.coordination import LighthouseServer
        from torchft.local_sgd import DiLoCo
        from torchft.manager import Manager
        from torchft.process_group import ProcessGroupGloo

        self.optimizer = optimizer
        self._steps = 0
        optimizer.register_step_post_hook(self._count)
        size, place = dist.get_world_size(), own_address()
        self._lighthouse: Any = None
        if dist.get_rank() == 0:
            self._lighthouse = LighthouseServer(bind="[::]:0", min_replicas=size, join_timeout_ms=1000)
        lighthouse = told_by_first(self._lighthouse and self._lighthouse.address())
        patience = timedelta(seconds=PATIENCE)
        store = dist.TCPStore(place, 0, is_master=True, wait_for_workers=False)
        self._manager = Manager(
            pg=ProcessGroupGloo(timeout=patience),
            load_state_dict=model.load_state_dict,
            state_dict=model.state_dict,
            min_replica_size=size,
            use_async_quorum=False,
            timeout=patience,
            quorum_timeout=patience,
            rank=0,
            world_size=1,
            store_addr=place,
            store_port=store.port,
            lighthouse_addr=lighthouse,
            replica_id=f"host_{dist.get_rank()}",
            hostname=place,
            init_sync=False,
        )
        self._store = store
        outer = torch.optim.SGD(model.parameters(), lr=OUTER_RATE, momentum=OUTER_MOMENTUM, nesterov=True)
        self._outer = DiLoCo(self._manager, [model], optimizer, outer, sync_every=INTERVAL)
        self._outer.__enter__()

    def close(self) -> None:
        """Leaves the others.

        Raises:
            RuntimeError: a meeting failed.
        """
        met = self._manager.current_step()
        self._outer.__exit__(None, None, None)
        dist.barrier()
        self._manager.shutdown()
        if self._lighthouse is not None:
            self._lighthouse.shutdown()
        if met != self._steps // INTERVAL:
            raise RuntimeError(f"{met} of {self._steps // INTERVAL} meetings of torchft were kept")

    def _count(self, *_: object) -> None:
        self._steps += 1


class Hivemind:
    """Local updates by Hivemind.

    Args:
        order: what is trained.
        model: on every host the same.
        optimizer: of the steps.

    Attributes:
        optimizer: whose steps count.
    """

    def __init__(self, order: Order, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        del model
        # its own choice leaves files in shared memory when a host's processes are ended
        os.environ["HIVEMIND_MEMORY_SHARING_STRATEGY"] = "file_descriptor"
        import hivemind
        from hivemind.compression import Float16Compression

        self._sockets = told_by_first(set(SOCKETS.glob(SOCKET_NAMES)))
        self._log = Averagings(dist.get_world_size())
        logging.getLogger("hivemind").addHandler(self._log)
        listens = {"host_maddrs": [f"/ip4/{own_address()}/tcp/0"], "nat_port_map": False, "auto_nat": False}
        first = dist.get_rank() == 0
        dht = hivemind.DHT(start=True, **listens) if first else None
        peers = told_by_first(dht and [str(address) for address in dht.get_visible_maddrs()])
        self._dht = dht or hivemind.DHT(initial_peers=peers, start=True, **listens)
        self.optimizer = hivemind.Optimizer(
            dht=self._dht,
            run_id="exchange",
            target_batch_size=INTERVAL * order.batch,
            batch_size_per_step=order.batch // dist.get_world_size(),
            optimizer=optimizer,
            use_local_updates=True,
            matchmaking_time=MATCHMAKING,
            averaging_timeout=PATIENCE,
            state_averaging_compression=Float16Compression(),
            verbose=True,
        )

    def close(self) -> None:
        """Leaves the others.

        Raises:
            RuntimeError: most averagings failed, or there was none.
        """
        epochs = self.optimizer.local_epoch
        self.optimizer.shutdown()
        dist.barrier()
        self._dht.shutdown()
        dist.barrier()
        if dist.get_rank() == 0:
            for left in set(SOCKETS.glob(SOCKET_NAMES)) - self._sockets:
                left.unlink(missing_ok=True)
        logging.getLogger("hivemind").removeHandler(self._log)
        if 2 * self._log.succeeded < max(1, epochs):
            raise RuntimeError(f"{self._log.succeeded} of {epochs} averagings of Hivemind succeeded: {self._log.said}")


class Averagings(logging.Handler):
    """Counts what Hivemind tells in its log only.

    Args:
        size: hosts that an averaging should have.

    Attributes:
        succeeded: averagings of all hosts.
        said: of the others, the last.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._wanted = f"Averaged parameters with {size} peers"
        self.succeeded = 0
        self.said = "no peer was found"

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line of the log."""
        message = record.getMessage()
        if message == self._wanted:
            self.succeeded += 1
        elif message.startswith(("Averaged parameters", "Averaging failed")):
            self.said = message


def own_address() -> str:
    """Where the other hosts reach this one."""
    return socket.gethostbyname(socket.gethostname())


def told_by_first(value: Any) -> Any:
    """Host 0's value, on every host."""
    message = [value]
    dist.broadcast_object_list(message, src=0)
    return message[0]
