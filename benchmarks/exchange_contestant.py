"""One host of one way of training a GPT of 10M parameters; started by `exchange.py` on every host of a testbed.

Trains in phases: before phase k it makes the file OUTPUT.k.ready and waits for OUTPUT.k.go, so that links can be
changed and counters read between phases. At the end rank 0 writes one JSON object to OUTPUT.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from character_model import CharacterModel, loss, texts
from exchange_ways import RIVALS, meshwright_step, rival_step, strategy_of
from meshwright.documents import write_toml
from meshwright.exchange import DirectTransport
from meshwright.hardware.probe_link import link_between

WIDTH, DEPTH, HEADS, LENGTH = 320, 8, 5, 64
HELD_OUT = 64  # sequences


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


def held_out_loss(model: nn.Module, text: Tensor) -> float:
    """Of this rank's model."""
    with torch.no_grad():
        return float(loss(model, text))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", help="of training; link: measures the link between the hosts")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--phases", default="8", help="steps of each phase: 80,6,4")
    parser.add_argument("--evaluate", type=int, default=10, help="held-out loss every so many steps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", type=float, default=1.0, help="MiB")
    parser.add_argument("--even", action="store_true", help="equal shares on unequal hosts")
    return parser.parse_args()


def await_phase(output: Path, number: int) -> None:
    """Rank 0 says that everybody is there, and waits to be told to go on."""
    dist.barrier()
    if dist.get_rank() == 0:
        output.with_suffix(f".{number}.ready").touch()
        while not output.with_suffix(f".{number}.go").exists():
            time.sleep(0.01)
    dist.barrier()


def measure_link(arguments: argparse.Namespace) -> None:
    """The link between the hosts, as the launcher measures it; rank 0 writes it."""
    is_first = arguments.rank == 0
    store = dist.TCPStore(arguments.address, int(arguments.port), arguments.hosts, is_master=is_first)
    link = link_between(store, rank=arguments.rank, num_hosts=arguments.hosts, transports={"direct": DirectTransport})
    if is_first:
        write_toml(link, arguments.output)
    store.add("left", 1)
    while is_first and store.add("left", 0) < arguments.hosts:
        time.sleep(0.01)


def main() -> None:
    """Trains and writes what was measured."""
    arguments = parse()
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": arguments.address, "MASTER_PORT": arguments.port}
    if arguments.way == "link":
        measure_link(arguments)
        return
    dist.init_process_group("gloo", rank=arguments.rank, world_size=arguments.hosts)
    torch.manual_seed(arguments.seed)
    model = CharacterModel(width=WIDTH, depth=DEPTH, heads=HEADS, length=LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, fused=True)
    train, held_out = texts(length=LENGTH, held_out=HELD_OUT)
    generator = torch.Generator().manual_seed(arguments.seed + 1)

    def draw() -> Tensor:
        starts = torch.randint(len(train) - LENGTH, (arguments.batch, 1), generator=generator)
        return train[starts + torch.arange(LENGTH + 1)]

    shares = (1,) * arguments.hosts
    if arguments.way in RIVALS:
        step, close = rival_step(arguments.way, model, optimizer, loss)
    else:
        if not arguments.even:
            shares = measured_shares(model, draw())
        bucket_size = int(arguments.bucket * 2**20)
        strategy = strategy_of(arguments.way, shares=shares, batch=arguments.batch, bucket_size=bucket_size)
        step, close = meshwright_step(model, optimizer, loss, strategy)
    losses: list[tuple[int, float]] = []
    phases: list[list[float]] = []
    number = 0
    for phase, steps in enumerate(map(int, arguments.phases.split(","))):
        await_phase(arguments.output, phase)
        phases.append([])
        for _ in range(steps):
            number += 1
            batch = draw()
            started = time.perf_counter()
            step(batch)
            phases[-1].append(time.perf_counter() - started)
            if number % arguments.evaluate == 0:
                if arguments.rank == 0:
                    losses.append((number, held_out_loss(model, held_out)))
                dist.barrier()
    await_phase(arguments.output, len(phases))
    if arguments.rank == 0:
        arguments.output.write_text(json.dumps({"phases": phases, "losses": losses, "shares": shares}))
    close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
