"""Steps are not what was predicted: plans are priced again, corrected with what the steps took, and the best is named.

Prices come from the files beside the plan, so that no step waits for a trial: pricing takes tenths of a second, once in
a run, on rank 0.
"""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from meshwright.cost import TimeBreakdown
from meshwright.documents import read_toml
from meshwright.errors import MeshwrightError
from meshwright.graph import read_graph
from meshwright.hardware import read_cluster
from meshwright.plan import Goal, Offer, Plan, better_plan
from meshwright.run._opening import Request
from meshwright.units import format_seconds


def reconsideration(plan: Plan, folder: Path | None, request: Request) -> Callable[[TimeBreakdown], str] | None:
    """What reconsiders a plan once its steps were seen.

    Args:
        plan: that runs.
        folder: of the run, where graph, cluster and goal lie beside the plan.
        request: what the script itself asks of its plan.

    Returns:
        None where the plan's graph or cluster is not there.
    """
    if folder is None or not all((folder / name).is_file() for name in ("graph.json", "cluster.toml", "goal.toml")):
        return None

    def reconsider(measured: TimeBreakdown) -> str:
        from meshwright.run._planning import merged_goal

        try:
            goal = merged_goal(read_toml(Goal, folder / "goal.toml"), pins=request.pins, allow=request.allow)
            if goal.weighs_more_than_time:
                return ""  # what is faster may cost more
            graph, cluster = read_graph(folder / "graph.json"), read_cluster(folder / "cluster.toml")
            offer = better_plan(plan, graph, cluster, goal, measured)
        except MeshwrightError as error:
            return f". Corrected with these steps, no other plan could be priced: {error.fact}"
        return offered(offer, now=measured.step)

    return reconsider


def offered(offer: Offer | None, *, now: float) -> str:
    """The better plan with its gain and its command, or that there is none.

    Args:
        offer: what was found.
        now: what a step takes (s).
    """
    if offer is None:
        return ". Corrected with these steps, the prices of all other plans are no tenth lower: this one stays the best"
    command = " ".join(("meshwright run", *(f"--set {pin}" for pin in offer.pins), shlex.join(sys.argv)))
    without = f", without the pinned {' and '.join(offer.unpinned)}" if offer.unpinned else ""
    return (
        f'. Corrected with these steps, "{offer.summary}" is expected to take {format_seconds(offer.step)}, '
        f"{1 - offer.step / now:.0%} less: `{command}`{without}"
    )
