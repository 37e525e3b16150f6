"""Whether a long run on a CPU leaves time to find out what compiling brings there.

On a CPU no price tells it: over the eager step it was 0.84 to 1.09 times the speed for six models of one machine, after
4 to 80 s of compiling. So it is tried, and only where that is a small part of the run.
"""

from collections.abc import Mapping
from dataclasses import replace

from meshwright.cost import Pricer
from meshwright.graph import Graph
from meshwright.hardware import Cluster, Correction
from meshwright.plan._choice import winner
from meshwright.plan._goal import Goal
from meshwright.plan._priced import Priced, price
from meshwright.plan._shortlist import Shortlist
from meshwright.plan._trial_result import TrialResult

# The part of a run that finding out may take at most.
_TRIAL_SHARE = 0.05


def compiled_rival(
    graph: Graph,
    cluster: Cluster,
    goal: Goal,
    listed: Shortlist,
    trials: Mapping[int, TrialResult],
    *,
    correction: Correction,
) -> Priced | None:
    """The winner of a trial with its blocks compiled, where the run is long enough to try that too.

    Args:
        listed: what was tried.
        trials: measured steps, by index into `listed.candidates`.
        correction: the one that the shortlist was priced with.

    Returns:
        None on accelerators, whose compiled strategies are priced; for a split model, which runs no modules; where the
        choice is pinned; and for runs that are short or of unknown length.
    """
    place = winner(listed, trials)
    best, result = listed.candidates[place], trials.get(place)
    on_cpu = all(worker.device == "cpu" for worker in best.strategy.workers)
    settled = not on_cpu or best.strategy.mesh.splits_the_model or goal.pins.compiled is not None
    if result is None or result.failure or settled:
        return None
    pricer = Pricer(graph, cluster, correction=correction)
    kernels = replace(best.strategy.kernels, compiled=True)
    if pricer.start(kernels) > _TRIAL_SHARE * goal.steps * result.step:
        return None
    return price(pricer, goal, replace(best.strategy, kernels=kernels))
