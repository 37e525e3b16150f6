"""The planner's pick of each cell against the best choice that was measured there."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from character_model import CharacterModel, loss
from exchange_cells import EXAMPLES, PICKED_FROM, Cell
from exchange_contestant import DEPTH, HEADS, LENGTH, WIDTH
from exchange_orders import BUCKET
from exchange_ways import strategy_of
from meshwright.cost import Pricer
from meshwright.graph.capture import capture
from meshwright.hardware import Host, Link, here

# What may be picked where exactness, 16 bits, or compression is allowed.
ALLOWED = {
    "exact": tuple(way for way in PICKED_FROM if way.startswith("exact")),
    "precision": tuple(way for way in PICKED_FROM if way != "int8"),
    "compression": tuple(way for way in PICKED_FROM if not way.startswith("bfloat16")),
}
CLOSE = 1.05
HOSTS = "2 equal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """What the planner picks on a link.

    Args:
        hosts: of the cell.
        link: of the cell.
        allow: what is permitted.
        way: the pick.
        best: the fastest that was measured.
        over_best: the pick's measured time of a step over that of the best.
        predicted: s, the pick's step.
        measured: s, the pick's step.
    """

    hosts: str
    link: str
    allow: str
    way: str
    best: str
    over_best: float
    predicted: float
    measured: float


def picks(cells: Sequence[Cell], links: Mapping[str, Link]) -> list[Pick]:
    """One pick for each link and allowance of which all ways were measured on two equal hosts.

    Args:
        links: as a run finds them, by the cells' names.
    """
    batch = 2 * EXAMPLES
    model = CharacterModel(width=WIDTH, depth=DEPTH, heads=HEADS, length=LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    graph = capture(model, optimizer, loss, torch.zeros(batch, LENGTH + 1, dtype=torch.int64))
    machine = here()
    found = []
    for link, measured in links.items():
        times = {
            way: statistics.median(seconds)
            for way in PICKED_FROM
            if (seconds := [cell.seconds for cell in cells if (cell.way, cell.link, cell.hosts) == (way, link, HOSTS)])
        }
        # the testbed gives each of its hosts one core
        hosts = tuple(Host(name=f"host-{rank}", device=replace(machine.hosts[0].device, cores=1)) for rank in range(2))
        cluster = replace(machine, hosts=hosts, links=(*machine.links, measured))
        pricer = Pricer(graph, cluster)
        prices = {
            way: pricer.predict(strategy_of(way, shares=(1, 1), batch=batch, bucket_size=BUCKET)).time.step
            for way in times
        }
        for allow, ways in ALLOWED.items():
            if not set(ways) <= set(times):
                continue
            way, best = min(ways, key=prices.__getitem__), min(ways, key=times.__getitem__)
            found.append(
                Pick(
                    hosts=HOSTS, link=link, allow=allow, way=way, best=best, over_best=times[way] / times[best],
                    predicted=prices[way], measured=times[way],
                )
            )  # fmt: skip
    return found
