"""What binds a plan, and what would make another one best: found by pricing the candidates under changed conditions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from meshwright.cost import Pricer, Strategy
from meshwright.hardware import Cluster
from meshwright.plan._priced import Priced, family
from meshwright.plan._reasons import computing, exchanged_size
from meshwright.units import Seconds, format_bytes, format_seconds

_MOST_TIMES_FASTER = 1024.0
_MOST_TIMES_LARGER = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A strategy, and how its trial compared with its prediction.

    Args:
        priced: strategy and price.
        factor: measured over predicted; the median of the tried ones where it was not tried itself.
    """

    priced: Priced
    factor: float

    @property
    def step(self) -> Seconds:
        """The step as measured, or as expected after what was measured of the others (s)."""
        return self.priced.prediction.time.step * self.factor


def binding(chosen: Contender, barred: Sequence[Priced]) -> str:
    """What keeps the step from being faster, in a sentence with numbers.

    Args:
        barred: strategies that do not fit.
    """
    faster = [item for item in barred if item.prediction.time.step * chosen.factor < chosen.step]
    if faster:
        best = min(faster, key=lambda item: item.rank)
        step = best.prediction.time.step * chosen.factor
        return (
            f"memory: {best.strategy.summary} would take {format_seconds(step)} instead of "
            f"{format_seconds(chosen.step)} but needs {format_bytes(best.prediction.memory.peak)} per worker, "
            f"and {format_bytes(best.memory_limit)} may be used"
        )
    time = chosen.priced.prediction.time
    parts = {
        "computing": computing(time) + time.recompute,
        "exchange between workers": time.communication + time.waiting,
        "the optimizer's update": time.optimizer,
        "overhead": time.overhead,
    }
    name, size = max(parts.items(), key=lambda pair: pair[1])
    exchanged = exchanged_size(chosen.priced)
    detail = f", {format_bytes(exchanged)} per worker" if name.startswith("exchange") else ""
    spent = format_seconds(size * chosen.factor)
    return f"{name}: {size / time.step:.0%} of the step ({spent} of {format_seconds(chosen.step)}{detail})"


def flips(pricer: Pricer, contenders: Sequence[Contender], barred: Sequence[Priced]) -> tuple[str, ...]:
    """What would change the choice.

    Args:
        contenders: the chosen one first.
        barred: strategies that do not fit.
    """
    return (
        *_more_memory(contenders[0], barred),
        *_faster_link(pricer, contenders),
        *_another_batch(pricer, contenders),
    )


def _more_memory(chosen: Contender, barred: Sequence[Priced]) -> Iterator[str]:
    faster = [item for item in barred if item.prediction.time.step * chosen.factor < chosen.step]
    if faster:
        best = min(faster, key=lambda item: item.prediction.memory.peak)
        saved = chosen.step - best.prediction.time.step * chosen.factor
        yield (
            f"with {format_bytes(best.prediction.memory.peak)} per worker instead of "
            f"{format_bytes(best.memory_limit)}: {best.strategy.summary}, {format_seconds(saved)} faster"
        )


def _faster_link(pricer: Pricer, contenders: Sequence[Contender]) -> Iterator[str]:
    """How much faster (or slower) an exchange would make another number of workers best."""
    chosen = contenders[0]
    workers = chosen.priced.strategy.num_workers
    rivals = [item for item in contenders if item.priced.strategy.num_workers != workers]
    if not rivals:
        return
    for word, faster in (("as fast", 1.0), ("as slow", -1.0)):
        factor = _smallest(
            lambda times, sign=faster: _overtaken(_with_links(pricer, times**sign), chosen, rivals) is not None
        )
        if factor is not None:
            winner = _overtaken(_with_links(pricer, factor**faster), chosen, rivals)
            assert winner is not None, factor
            shown = f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"
            yield f"an exchange {shown} times {word}: {winner.priced.strategy.summary}"


def _another_batch(pricer: Pricer, contenders: Sequence[Contender]) -> Iterator[str]:
    """The nearest doubling and the nearest halving of the batch at which another family of layouts is best.

    Within a family the candidates are nearer to each other than any prediction.
    """
    rivals = [item for item in contenders if family(item.priced.strategy) != family(contenders[0].priced.strategy)]
    chosen, size = contenders[0], pricer.workload.graph.batch_size
    larger = [size << step for step in range(1, _MOST_TIMES_LARGER.bit_length())]
    smaller = [size >> step for step in range(1, size.bit_length())]
    for sizes in (larger, smaller):
        for changed in sizes:
            if changed < max(item.priced.strategy.num_workers for item in contenders):
                break
            winner = _overtaken(_with_batch(pricer, changed), chosen, rivals)
            if winner is not None:
                yield f"a batch of {changed} instead of {size}: {winner.priced.strategy.summary}"
                break


def _overtaken(
    price: Callable[[Strategy], Seconds], chosen: Contender, rivals: Sequence[Contender]
) -> Contender | None:
    """The rival that is fastest under changed conditions and faster than the chosen one."""
    limit = price(chosen.priced.strategy) * chosen.factor
    best = min(rivals, key=lambda item: price(item.priced.strategy) * item.factor, default=None)
    if best is not None and price(best.priced.strategy) * best.factor < limit:
        return best
    return None


def _with_links(pricer: Pricer, times: float) -> Callable[[Strategy], Seconds]:
    cluster = scaled_links(pricer.cluster, times)
    changed = Pricer(pricer.workload.graph, cluster, correction=pricer.correction)
    return lambda strategy: changed.predict(strategy).time.step


def _with_batch(pricer: Pricer, size: int) -> Callable[[Strategy], Seconds]:
    graph = replace(pricer.workload.graph, batch_size=size)
    changed = Pricer(graph, pricer.cluster, correction=pricer.correction)

    def price(strategy: Strategy) -> Seconds:
        accumulation = min(strategy.batch.accumulation, max(1, size // strategy.mesh.num_shares))
        batch = replace(strategy.batch, size=size, accumulation=accumulation)
        return changed.predict(replace(strategy, batch=batch)).time.step

    return price


def scaled_links(cluster: Cluster, times: float) -> Cluster:
    """The cluster with every link and every measured collective `times` as fast, latency too."""
    return replace(
        cluster,
        links=tuple(
            replace(
                link,
                latency=link.latency / times,
                bandwidth=link.bandwidth * times,
                collectives=tuple(
                    replace(row, latency=row.latency / times, bandwidth=row.bandwidth * times)
                    for row in link.collectives
                ),
            )
            for link in cluster.links
        ),
    )


def _smallest(holds: Callable[[float], bool]) -> float | None:
    """The smallest factor above 1 from which on a monotone condition holds, to 5 %; None up to the largest tried."""
    if not holds(_MOST_TIMES_FASTER):
        return None
    low, high = 1.0, _MOST_TIMES_FASTER
    while high / low > 1.05:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
