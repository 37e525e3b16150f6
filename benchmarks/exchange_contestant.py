"""One host that trains a GPT of 10M parameters as it is told; started by `exchange.py` on every host of a testbed.

Runs are trained one after another, each in phases: before phase k of run n host 0 makes the file n.k.ready in the
folder of the orders and waits for n.k.go, so that links can be changed and counters read between phases. At the end of
run n it writes the answer to n.json. Beside folder/orders.json, a host that is asked for the link measures that.
"""

import argparse
import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from character_model import CharacterModel, loss, texts
from exchange_orders import Answer, Order, Phase, read_orders, write_answer
from exchange_ways import PACKAGES, RIVALS, meshwright_step, rival_step, strategy_of
from meshwright.documents import write_toml
from meshwright.exchange import DirectTransport
from meshwright.hardware.probe_link import link_between

WIDTH, DEPTH, HEADS, LENGTH = 320, 8, 5, 64
HELD_OUT = 64  # sequences
Step = Callable[[Tensor], float]


def measured_shares(model: nn.Module, batch: Tensor) -> tuple[int, ...]:
    """Whole examples for each rank, by how fast it computes."""
    part = batch[: max(1, len(batch) // dist.get_world_size())]
    for _ in range(2):
        dist.barrier()
        started = time.perf_counter()
        loss(model, part).backward()
        seconds = time.perf_counter() - started
    model.zero_grad()
    speeds = torch.zeros(dist.get_world_size(), dtype=torch.float64)
    speeds[dist.get_rank()] = 1 / seconds
    dist.all_reduce(speeds)
    exact = speeds / speeds.sum() * len(batch)
    shares = exact.floor().long()
    for rank in (shares - exact).argsort()[: len(batch) - int(shares.sum())].tolist():
        shares[rank] += 1
    return tuple(shares.tolist())


def batches(text: Tensor, order: Order) -> Iterator[Tensor]:
    """Global batches, the same ones for every way."""
    generator = torch.Generator().manual_seed(order.seed + 1)
    while True:
        starts = torch.randint(len(text) - LENGTH, (order.batch, 1), generator=generator)
        yield text[starts + torch.arange(LENGTH + 1)]


class Witness:
    """Compares the gradient that an optimizer's first step sees with that of one device.

    Args:
        model: before its first step.
        optimizer: of it.
        batch: the first global batch.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
        loss(model, batch).backward()
        self._model = model
        self._expected = [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        self.error: float | None = None
        optimizer.register_step_pre_hook(self._compare)

    def _compare(self, *_: object) -> None:
        if self.error is not None:
            return
        found = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        pairs = list(zip(found, self._expected, strict=True))
        apart = sum(float((gradient - expected).square().sum()) for gradient, expected in pairs)
        self.error = (apart / sum(float(expected.square().sum()) for expected in self._expected)) ** 0.5


class Phases:
    """Goes through the phases of a run.

    Args:
        folder: of the orders.
        number: of the run.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._name = str(folder / str(number))
        self._count = 0

    def begin(self) -> None:
        """Host 0 says that everybody is there, and waits to be told to go on."""
        dist.barrier()
        if dist.get_rank() == 0:
            Path(f"{self._name}.{self._count}.ready").touch()
            while not Path(f"{self._name}.{self._count}.go").exists():
                time.sleep(0.01)
        dist.barrier()
        self._count += 1


def seconds_of(phase: Phase, step: Step, data: Iterator[Tensor], after: Callable[[], None]) -> list[float]:
    """Seconds of each step of a phase on this host."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < phase.steps or time.perf_counter() < begun + phase.seconds:
        batch = next(data)
        started = time.perf_counter()
        step(batch)
        found.append(time.perf_counter() - started)
        after()
    return found


def trained(order: Order, phases: Phases, text: Tensor, held_out: Tensor) -> Answer:
    """Trains as told; what came of it, on every host."""
    torch.manual_seed(order.seed)
    model = CharacterModel(width=WIDTH, depth=DEPTH, heads=HEADS, length=LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=order.rate, fused=True)
    data = batches(text, order)
    first = next(data)
    witness = Witness(model, optimizer, first) if order.is_witnessed and dist.get_rank() == 0 else None
    shares = (order.batch // dist.get_world_size(),) * dist.get_world_size()
    if order.way in PACKAGES:
        from exchange_rivals import packaged_step

        step, close = packaged_step(order, model, optimizer, loss)
    elif order.way in RIVALS:
        step, close = rival_step(order.way, model, optimizer, loss)
    else:
        shares = measured_shares(model, first) if order.is_uneven else shares
        strategy = strategy_of(order.way, shares=shares, batch=order.batch, bucket_size=order.bucket)
        step, close = meshwright_step(model, optimizer, loss, strategy)
    losses: list[tuple[int, float]] = []
    number = 0

    def look() -> None:
        nonlocal number
        number += 1
        if order.evaluate and number % order.evaluate == 0:
            if dist.get_rank() == 0:
                with torch.no_grad():
                    losses.append((number, float(loss(model, held_out))))
            dist.barrier()

    data = chain([first], data)
    seconds = []
    for phase in order.phases:
        phases.begin()
        seconds.append(tuple(seconds_of(phase, step, data, look)))
    phases.begin()
    close()
    return Answer(
        seconds=tuple(seconds), speeds=_speeds(seconds), losses=tuple(losses), shares=shares,
        gradient_error=None if witness is None else witness.error,
    )  # fmt: skip


def _speeds(seconds: list[tuple[float, ...]]) -> tuple[tuple[float, ...], ...]:
    """Steps in a second of each host, by phase."""
    own = torch.tensor([len(times) / sum(times) for times in seconds], dtype=torch.float64)
    everyones = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, own)
    return tuple(map(tuple, torch.stack(everyones).T.tolist()))


def measure_link(arguments: argparse.Namespace) -> None:
    """The link between the hosts, as the launcher measures it; host 0 writes it."""
    is_first = arguments.rank == 0
    store = dist.TCPStore(arguments.address, int(arguments.port), arguments.hosts, is_master=is_first)
    link = link_between(store, rank=arguments.rank, num_hosts=arguments.hosts, transports={"direct": DirectTransport})
    if is_first:
        write_toml(link, arguments.folder / "link.toml")
    store.add("left", 1)
    while is_first and store.add("left", 0) < arguments.hosts:
        time.sleep(0.01)


def main() -> None:
    """Trains what was ordered, or measures the link where nothing was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": arguments.address, "MASTER_PORT": arguments.port}
    if not (arguments.folder / "orders.json").exists():
        measure_link(arguments)
        return
    dist.init_process_group("gloo", rank=arguments.rank, world_size=arguments.hosts)
    text, held_out = texts(length=LENGTH, held_out=HELD_OUT)
    for number, order in enumerate(read_orders(arguments.folder / "orders.json")):
        try:
            answer = trained(order, Phases(arguments.folder, number), text, held_out)
        except Exception:
            # what a rival has started beside this process would keep it from its end
            traceback.print_exc()
            os._exit(1)
        if arguments.rank == 0:
            write_answer(arguments.folder / f"{number}.json", answer)
        gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
