"""How long the search for a plan takes, and how far from the best its plan can be: large models on large clusters.

    python benchmarks/search.py            # 405B on 16,384 H100 in three ways, 70B on four kinds; about a minute
    python benchmarks/search.py --quick    # 70B on four kinds
    python benchmarks/search.py --json

Seconds are those of the processor in the search alone, from the captured graph to the plan. No clock ends a search.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import outcome
from meshwright.cost.accelerator import calibration
from meshwright.cost.hybrid import HybridPricer
from meshwright.graph import Transformer
from meshwright.hardware import Cluster, parse_cluster
from meshwright.plan import Goal
from meshwright.plan.explanation import summary
from meshwright.plan.search import Aim, Search
from published_model import Writing, captured

LLAMA_70B = Transformer(
    layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, vocab=128256, sequence=8192, gated=True
)  # fmt: skip
LLAMA_405B = Transformer(
    layers=126, hidden=16384, heads=128, kv_heads=8, ffn=53248, vocab=128256, sequence=8192, gated=True
)  # fmt: skip
KINDS = ("h100", "a100", "v100", "h200")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One search.

    Args:
        model: by its dimensions.
        dtype: of parameters and activations as the script makes them.
        batch: sequences of a step.
        cluster: makes what it is planned for.
        goal: what may be chosen.
        target: processor time of the search (s).
    """

    model: Transformer
    dtype: str
    batch: int
    cluster: Callable[[], Cluster]
    goal: Goal = Goal()
    target: float


def thousands() -> Cluster:
    """16,384 H100, 8 in a host."""
    return parse_cluster("h100:8x2048")


def four_kinds() -> Cluster:
    """Two hosts of 8 of each of four kinds in one network."""
    clusters = [parse_cluster(f"{kind}:8x2") for kind in KINDS]
    return replace(clusters[0], name="four kinds", hosts=tuple(host for each in clusters for host in each.hosts))


CASES = {
    "405B, 16,384 H100": Case(model=LLAMA_405B, dtype="float32", batch=2048, cluster=thousands, target=2.0),
    "405B in bfloat16, 16,384 H100": Case(
        model=LLAMA_405B, dtype="bfloat16", batch=2048, cluster=thousands, target=2.0
    ),
    "405B, precision chosen, 16,384 H100": Case(
        model=LLAMA_405B, dtype="float32", batch=2048, cluster=thousands, goal=Goal(allow=("precision",)), target=2.0
    ),
    "70B, 16 each of H100, A100, V100, H200": Case(
        model=LLAMA_70B, dtype="bfloat16", batch=256, cluster=four_kinds, target=10.0
    ),
}
QUICK = ("70B, 16 each of H100, A100, V100, H200",)


def measured(name: str) -> dict[str, Any]:
    """One search, timed."""
    case = CASES[name]
    graph = replace(captured(case.model, case.dtype, Writing()), batch_size=case.batch)
    cluster = case.cluster()
    begun = time.process_time()
    result = Search(HybridPricer(graph, cluster), case.goal, Aim()).run()
    seconds = time.process_time() - begun
    if result.best is None:
        raise SystemExit(f"{name}: no plan was found")
    return {
        "case": name, "search s": seconds, "gap": result.gap, "step s": result.best.price.step,
        "considered": result.considered, "priced": result.priced, "plan": summary(result.best.layout),
    }  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the last case alone")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    return parser.parse_args()


def main() -> int:
    """Searches one after another; 1 where a target was missed."""
    chosen = parse()
    there = outcome.machine()
    calibration()
    rows = [measured(name) for name in (QUICK if chosen.quick else CASES)]
    checks = [
        outcome.at_most(f"{row['case']}: processor time of the search (s)", row["search s"], CASES[row["case"]].target)
        for row in rows
    ]
    return outcome.publish(rows, checks, there=there, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
