"""Golden plans of published models on clusters that are not here, each with why practice says it is plausible.

As with `test_plan_golden`: a change that changes one says so with before and after. `python
tests/plan/test_plan_golden_large.py`, run with `tests` and `benchmarks` on the path, prints the present plans.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.cost.hybrid import HybridPricer
from meshwright.graph import Transformer
from meshwright.hardware import Cluster, parse_cluster
from meshwright.plan import Goal
from meshwright.plan.explanation import summary
from meshwright.plan.search import Aim, Search
from meshwright.units import format_bytes, format_seconds
from published_model import Writing, captured
from search import LLAMA_70B, LLAMA_405B

STORED = Path(__file__).with_name("golden_plans_large.json")

LLAMA_1B = Transformer(
    layers=16, hidden=2048, heads=32, kv_heads=8, ffn=8192, vocab=128256, sequence=8192, gated=True
)  # fmt: skip
LLAMA_8B = Transformer(
    layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256, sequence=8192, gated=True
)  # fmt: skip
LONG_8B = replace(LLAMA_8B, sequence=131072)


def _two_kinds() -> Cluster:
    """Two hosts of 8 H100 and two of 8 A100 in one network."""
    new, old = parse_cluster("h100:8x2"), parse_cluster("a100:8x2")
    return replace(new, name="h100 and a100", hosts=(*new.hosts, *old.hosts))


def _slow() -> Cluster:
    """Four hosts of 8 A100 joined by Ethernet of 10 Gbit/s."""
    fast = parse_cluster("a100:8x4")
    links = tuple(replace(link, bandwidth=1.25e9, latency=3e-5) if link.tier == "network" else link
                  for link in fast.links)  # fmt: skip
    return replace(fast, name="a100 on ethernet", links=links)


# Model, sequences in a step, cluster.
PAIRS: dict[str, tuple[Transformer, int, Callable[[], Cluster]]] = {
    "1B, 8 H100": (LLAMA_1B, 128, lambda: parse_cluster("h100:8")),
    "1B, 4 RTX 4090 without NVLink": (LLAMA_1B, 64, lambda: parse_cluster("rtx4090:4")),
    "8B, 4 RTX 4090 without NVLink": (LLAMA_8B, 64, lambda: parse_cluster("rtx4090:4")),
    "8B, 64 H100": (LLAMA_8B, 512, lambda: parse_cluster("h100:8x8")),
    "8B of 131,072 tokens, 64 H100": (LONG_8B, 32, lambda: parse_cluster("h100:8x8")),
    "8B, 16 H100 and 16 A100": (LLAMA_8B, 256, _two_kinds),
    "8B, 8 MI300X": (LLAMA_8B, 128, lambda: parse_cluster("mi300x:8")),
    "8B, 32 A100 over Ethernet of 10 Gbit/s": (LLAMA_8B, 128, _slow),
    "70B, 64 H100": (LLAMA_70B, 256, lambda: parse_cluster("h100:8x8")),
    "405B, 16,384 H100": (LLAMA_405B, 2048, lambda: parse_cluster("h100:8x2048")),
    "8B, 64 TPU v5p": (LLAMA_8B, 256, lambda: parse_cluster("tpu-v5p:4x16")),
}


def found(name: str) -> str:
    """The plan of a stored pair in a line."""
    model, batch, cluster = PAIRS[name]
    graph = replace(captured(model, "bfloat16", Writing()), batch_size=batch)
    best = Search(HybridPricer(graph, cluster()), Goal(), Aim()).run().best
    if best is None:
        return "does not fit"
    return f"{summary(best.layout)}: {format_seconds(best.price.step)}, {format_bytes(best.price.peak)}"


@pytest.mark.parametrize("name", list(PAIRS))
def test_the_large_plan_is_the_stored_one(name: str) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))[name]
    assert found(name) == stored["plan"]
    assert stored["plausible"]


if __name__ == "__main__":
    for pair in PAIRS:
        print(f"{pair}: {found(pair)}", flush=True)
