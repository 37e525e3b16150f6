"""How many more steps updates apart take to a loss than exact ones: islands, delays and stale stages in one process.

    python benchmarks/staleness.py [--steps 240] [--seeds 2] [--quick] [--json]

A GPT of 0.8M parameters on real text. Every way computes the same examples as the exact run; it is the steps that
differ. Printed of each way: the held-out loss after the last step, and steps over those after which the exact run had
that loss.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from character_model import CharacterModel, loss, texts
from meshwright.cost import Updates, suited_momentum
from meshwright.parallel.stale import Server
from outcome import at_most, machine, publish

WIDTH, DEPTH, HEADS, LENGTH, BATCH = 128, 4, 4, 64, 16
HELD_OUT = 128  # sequences
RATE = 1e-3
EVERY = 10  # steps between two looks at the held-out loss

Way = Callable[[int, Iterator[Tensor]], nn.Module]


class Island:
    """A model with its optimizer."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = CharacterModel(width=WIDTH, depth=DEPTH, heads=HEADS, length=LENGTH)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=True)

    def step(self, text: Tensor) -> None:
        """One step of its own."""
        self.optimizer.zero_grad()
        loss(self.model, text).backward()
        self.optimizer.step()

    def values(self) -> Tensor:
        """The parameters, flat."""
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()

    @torch.no_grad()
    def go_to(self, values: Tensor) -> None:
        """Takes other parameters."""
        nn.utils.vector_to_parameters(values.clone(), self.model.parameters())  # which makes views of it


def local(seed: int, count: int, updates: Updates) -> Iterator[tuple[Tensor | None, nn.Module]]:
    """Islands that meet; takes batches, gives the model that they agreed on last."""
    islands = [Island(seed) for _ in range(updates.islands)]
    anchor = nn.Parameter(islands[0].values())
    outer = torch.optim.SGD([anchor], lr=updates.rate, momentum=updates.momentum, nesterov=updates.momentum > 0)
    for number in range(1, count + 1):
        text = yield islands[0].model
        for island, part in zip(islands, text.tensor_split(updates.islands), strict=True):
            island.step(part)
        if number % updates.interval == 0:
            anchor.grad = anchor.detach() - torch.stack([island.values() for island in islands]).mean(0)
            outer.step()
            for island in islands:
                island.go_to(anchor.detach())


def asynchronous(seed: int, count: int, updates: Updates):
    """Islands that hand their ways to the product's server, evenly spread over the interval."""
    islands = [Island(seed) for _ in range(updates.islands)]
    given = [island.values() for island in islands]
    server = Server(given[0], updates, weights=(1 / updates.islands,) * updates.islands)
    for number in range(1, count + 1):
        text = yield islands[0].model
        for place, (island, part) in enumerate(zip(islands, text.tensor_split(updates.islands), strict=True)):
            island.step(part)
            if (number - updates.interval * place // updates.islands) % updates.interval == 0:
                given[place] = server.hand_over(place, given[place] - island.values())
                island.go_to(given[place])


def stale_stages(seed: int, count: int, stages: int):
    """Stage s of n steps with gradients whose forward and backward saw its parameters of n - 1 - s steps before."""
    island = Island(seed)
    parameters = list(island.model.parameters())
    places = [
        min(stages - 1, stages * sum(p.numel() for p in parameters[:index]) // sum(p.numel() for p in parameters))
        for index in range(len(parameters))
    ]
    past = [[tensor.detach().clone() for tensor in parameters] for _ in range(stages)]
    for _ in range(count):
        text = yield island.model
        newest = [tensor.detach().clone() for tensor in parameters]
        past = [newest, *past[: stages - 1]]
        island.optimizer.zero_grad()
        with torch.no_grad():
            for index, tensor in enumerate(parameters):
                tensor.copy_(past[stages - 1 - places[index]][index])
        loss(island.model, text).backward()
        with torch.no_grad():
            for tensor, value in zip(parameters, newest, strict=True):
                tensor.copy_(value)
        island.optimizer.step()


def stale_workers(seed: int, count: int, workers: int):
    """Workers in turn step the same parameters with gradients taken before the others' last steps (Hogwild)."""
    shared = Island(seed)
    optimizers = [torch.optim.AdamW(shared.model.parameters(), lr=RATE / workers, fused=True) for _ in range(workers)]
    for _ in range(count):
        text = yield shared.model
        gradients = []
        for part in text.tensor_split(workers):
            shared.optimizer.zero_grad()
            loss(shared.model, part).backward()
            gradients.append([tensor.grad for tensor in shared.model.parameters()])
        for optimizer, own in zip(optimizers, gradients, strict=True):
            for tensor, gradient in zip(shared.model.parameters(), own, strict=True):
                tensor.grad = gradient
            optimizer.step()


def curve(way, count: int, seed: int, train: Tensor, held_out: Tensor) -> list[float]:
    """Held-out losses, one every `EVERY` steps."""
    generator = torch.Generator().manual_seed(seed + 1)
    losses = []
    model = next(way)
    for number in range(1, count + 1):
        starts = torch.randint(len(train) - LENGTH, (BATCH, 1), generator=generator)
        with contextlib.suppress(StopIteration):
            model = way.send(train[starts + torch.arange(LENGTH + 1)])
        if number % EVERY == 0:
            with torch.no_grad():
                losses.append(float(loss(model, held_out)))
    return losses


def ways(count: int) -> dict[str, Callable[[int], Iterator]]:
    """Every way by name, given a seed."""
    found: dict[str, Callable[[int], Iterator]] = {
        "exact": lambda seed: local(seed, count, Updates(kind="local", islands=1, interval=1, rate=1.0, momentum=0.0))
    }
    for islands in (2, 4):
        for interval in (4, 16, 64):
            base = Updates(kind="local", islands=islands, interval=interval, momentum=suited_momentum(interval))
            found[f"local {islands} islands {interval} steps"] = lambda seed, u=base: local(seed, count, u)
        for interval in (4, 16):
            base = Updates(kind="asynchronous", islands=islands, interval=interval, rate=1.0, momentum=0.0)
            found[f"asynchronous {islands} islands {interval} steps"] = lambda seed, u=base: asynchronous(
                seed, count, replace(u)
            )
        found[f"shared {islands} workers"] = lambda seed, n=islands: stale_workers(seed, count, n)
        found[f"stale {islands} stages"] = lambda seed, n=islands: stale_stages(seed, count, n)
    return found


def more_steps(exact: list[float], final: float) -> float:
    """Steps of the run over those after which the exact one had its final loss, between its looks by a line."""
    previous = None
    for number, value in enumerate(exact, start=1):
        if value <= final:
            part = 0.0 if previous is None else (value - final) / (previous - value)
            return len(exact) / (number + part)
        previous = value
    return 1.0


def main() -> int:
    """Runs every way and prints what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20 steps, one seed, under a minute")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count, seeds = (20, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    torch.set_num_threads(1)
    there = machine()
    train, held_out = texts(length=LENGTH, held_out=HELD_OUT)
    rows = []
    exact: dict[int, list[float]] = {}
    for name, make in ways(count).items():
        finals, factors = [], []
        for seed in range(seeds):
            losses = curve(make(seed), count, seed, train, held_out)
            exact.setdefault(seed, losses)
            finals.append(losses[-1])
            factors.append(more_steps(exact[seed], losses[-1]))
        rows.append({"way": name, "loss": sum(finals) / seeds, "steps_over_exact": sum(factors) / seeds})
        print(rows[-1], file=sys.stderr, flush=True)
    worst = max(row["steps_over_exact"] for row in rows)
    return publish(rows, [at_most("steps over exact, worst way", worst, 4.0)], there=there, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
