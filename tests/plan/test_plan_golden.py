"""Golden plans: what is chosen for stored pairs of model and machine, so that a change of any of them is reviewed.

A change of the cost model that changes a plan says so with before and after; `python tests/plan/test_plan_golden.py`,
run with `tests` on the path, prints the present plans.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import planning_builders as build
from meshwright.graph import Graph, Linear
from meshwright.hardware import Cluster
from meshwright.plan import Goal, choose, shortlist
from meshwright.units import format_bytes, format_seconds

STORED = Path(__file__).with_name("golden_plans.json")


def _pairs() -> dict[str, tuple[Graph, Cluster, Goal]]:
    two_cores, slow_link = build.machine(), build.machine(latency=1e-3, bandwidth=0.1e9)
    eight_cores = build.machine(build.processor(cores=8))
    small, wide = build.multilayer(layers=2, batch=32), build.multilayer(layers=4, batch=2048)
    saving = build.multilayer(layers=8, batch=2048, scale=20.0)
    normalized = build.multilayer(layers=4, batch=2048, traits=("batch_norm",))
    huge = _reading_weights(build.multilayer(layers=2000, batch=1024))
    rack = build.accelerators(hosts=2)
    return {
        "small model, two cores": (small, two_cores, Goal()),
        "large batch, two cores": (wide, two_cores, Goal()),
        "large batch, two cores, slow exchange": (
            wide, replace(slow_link, links=tuple(replace(link, collectives=()) for link in slow_link.links)), Goal(),
        ),
        "large batch, eight cores": (wide, eight_cores, Goal()),
        "batch normalization, two cores": (normalized, two_cores, Goal()),
        "large activations in 1 GB": (saving, two_cores, Goal(memory_limit=10**9)),
        "large activations in 600 MB": (saving, two_cores, Goal(memory_limit=600 * 10**6)),
        "sixteen accelerators": (wide, rack, Goal()),
        "model of 32 GB, sixteen accelerators of 80 GB": (huge, rack, Goal()),
        "model of 32 GB, sixteen accelerators of 20 GB": (huge, rack, Goal(memory_limit=20 * 10**9)),
        "long run, compiled": (wide, rack, Goal(steps=10**6)),
    }  # fmt: skip


def _reading_weights(graph: Graph) -> Graph:
    """The graph whose products read their weights, as real ones do: small micro-batches are then bound by memory."""
    weights = Linear(fixed=4.0 * build.WIDTH**2)
    return replace(graph, operations=tuple(replace(item, bytes_read=weights) for item in graph.operations))


def summary(name: str) -> str:
    """The plan of a stored pair in a line."""
    graph, cluster, goal = _pairs()[name]
    plan = choose(graph, cluster, goal, shortlist(graph, cluster, goal))
    memory = format_bytes(plan.prediction.memory.peak)
    return f"{plan.strategy.summary}: {format_seconds(plan.prediction.time.step)}, {memory}"


@pytest.mark.parametrize("name", list(_pairs()))
def test_the_plan_is_the_stored_one(name: str) -> None:
    assert summary(name) == json.loads(STORED.read_text(encoding="utf-8"))[name]


if __name__ == "__main__":
    print(json.dumps({name: summary(name) for name in _pairs()}, indent=2, ensure_ascii=False))
