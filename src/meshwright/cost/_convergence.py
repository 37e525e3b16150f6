"""What a strategy's departures from exact steps do to convergence: in steps to a loss, as measured, and in words.

A GPT of 0.8M parameters on real text, 400 steps, one seed: steps to a loss over those of exact steps, for 2 and 4
workers (`benchmarks/staleness.py`). Other models differ, so a run compares with exact steps at intervals.
"""

from collections.abc import Iterator
from math import log2

from meshwright.cost._compression import Compression
from meshwright.cost._flowing import delays
from meshwright.cost._strategy import Strategy
from meshwright.cost._updates import Updates

# Steps over exact ones with 2 and with 4 workers apart; islands met every 16 steps.
_APART = {"local": (1.06, 1.31), "asynchronous": (1.29, 1.74), "shared": (1.14, 1.31)}
_LATE = 1.17, 1.81


def steps_over_exact(strategy: Strategy) -> float:
    """How many times the steps of exact training it takes to a loss; 1 where every step is exact or compressed."""
    pipeline = strategy.pipeline
    late = strategy.mesh.pp if pipeline is not None and pipeline.schedule == "asynchronous" else 1
    return stale_steps(strategy.exchange.updates, late=late)


def stale_steps(updates: Updates | None, *, late: int) -> float:
    """Steps to a loss over exact ones.

    Args:
        updates: that workers do apart; None: every step is everybody's.
        late: stages of a pipeline that is not emptied between steps; 1: there is none.
    """
    apart = 1.0 if updates is None else _between(_APART[updates.kind], updates.islands)
    return apart * _between(_LATE, late)


def convergence(strategy: Strategy) -> Iterator[str]:
    """What each choice that changes the mathematics does, how stale what is, and what watches over it; in words."""
    exchange, pipeline = strategy.exchange, strategy.pipeline
    if exchange.updates is not None:
        yield _apart(exchange.updates)
    if pipeline is not None and pipeline.schedule == "asynchronous":
        late = delays(strategy.mesh.pp, strategy.batch.accumulation)
        stages = ", ".join(f"stage {stage} {count}" for stage, count in enumerate(late, start=1))
        guard = _guard(pipeline.check_every, "steps", pipeline.tolerance, "the pipeline is emptied after every step")
        yield f"gradients come late by steps: {stages}; {_seen(_between(_LATE, strategy.mesh.pp))}; {guard}"
    if exchange.compression is not None:
        yield _compressed(exchange.compression)
    if strategy.precision.reduction != "as_written":
        yield f"gradients are rounded to {strategy.precision.reduction} on their way and summed in float32"
    if strategy.precision.compute != "as_written":
        yield f"forward and backward compute in {strategy.precision.compute}, parameters are updated as written"


def _apart(updates: Updates) -> str:
    seen = _seen(_between(_APART[updates.kind], updates.islands))
    if updates.kind == "shared":
        stale = (
            f"a gradient may miss what the {updates.islands - 1} other workers write meanwhile, and writes may collide"
        )
        after = "all step together"
    elif updates.kind == "asynchronous":
        stale = (
            f"a worker's parameters are up to {updates.interval} steps old; what comes later than {updates.staleness} "
            "others counts for less"
        )
        after = "workers hand over twice as often, at last in every step together"
    else:
        delay = f", and {updates.delay} more while a meeting is under way" if updates.delay else ""
        stale = f"islands do not know each other's last {updates.interval} steps{delay}"
        after = "islands meet twice as often"
    return f"{stale}; {seen}; {_guard(updates.check_every, 'meetings', updates.tolerance, after)}"


def _compressed(choice: Compression) -> str:
    guard = _guard(choice.check_every, "steps", choice.tolerance, "more is sent")
    return f"{choice.summary}: what a step leaves out of the gradients comes with the next ones; {guard}"


def _seen(factor: float) -> str:
    return f"{factor:.2f} times the steps to a loss on a small language model"


def _guard(every: int, unit: str, tolerance: float, after: str) -> str:
    if not every:
        return "never compared with exact steps"
    return (
        f"compared with exact steps every {every} {unit}, and if over {tolerance:.0%} of the gain is missing, {after}"
    )


def _between(measured: tuple[float, float], workers: int) -> float:
    """In proportion to the doublings, through what was measured with 2 and 4."""
    two, four = measured
    return 1.0 if workers < 2 else max(1.0, two + (four - two) * (log2(workers) - 1))
