"""What a strategy leaves open about how the model is split, decided from the captured program."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from meshwright.cost import Pipeline, Strategy
from meshwright.errors import PlanError
from meshwright.parallel.pipeline import possible_cuts
from meshwright.parallel.pipeline._flow import Flow
from meshwright.parallel.program import Program
from meshwright.parallel.tensor import Rates, Scheme, choose_placements
from meshwright.parallel.tensor._operation import operation_of
from meshwright.parallel.tensor._rates import work_time
from meshwright.plan import Piece, StageWorker, balanced_cuts
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A strategy that leaves nothing open about how the model is split.

    Args:
        strategy: with placements and cuts.
        gathered: what no rule splits and every worker therefore does whole, a sentence each.
    """

    strategy: Strategy
    gathered: tuple[str, ...] = ()


def completed(strategy: Strategy, program: Program) -> Completed:
    """The strategy with a placement for every parameter that `tp` splits, and cuts for every stage.

    What the strategy says already stays, as long as the program can be split so.

    Args:
        strategy: of any mesh.
        program: of one micro-batch, whole.

    Raises:
        PlanError: the program cannot be split as the strategy's mesh says.
    """
    scheme, placements = None, strategy.placements
    if strategy.mesh.tp > 1:
        scheme = _as_given(strategy, program)
        if scheme is None:
            scheme = best_scheme(program, degree=strategy.mesh.tp, sequence=strategy.sequence)
            others = (placement for placement in strategy.placements if placement.axis != "tp")
            placements = (*others, *scheme.placements)
    whole = replace(strategy, placements=placements, pipeline=_pipeline(strategy, program))
    return Completed(strategy=whole, gathered=() if scheme is None else scheme.gathered)


def is_complete(strategy: Strategy) -> bool:
    """Whether nothing is left open about how the model is split."""
    split = strategy.mesh.tp == 1 or any(placement.axis == "tp" for placement in strategy.placements)
    return split and (strategy.mesh.pp == 1 or (strategy.pipeline is not None and bool(strategy.pipeline.cuts)))


def _as_given(strategy: Strategy, program: Program) -> Scheme | None:
    """The program split as the strategy's placements say; None where there are none, or it cannot be.

    A plan that was made from the model's operations alone may say what its program does not allow.
    """
    given = tuple(placement for placement in strategy.placements if placement.axis == "tp")
    if given:
        with suppress(PlanError):
            return choose_placements(program, degree=strategy.mesh.tp, sequence=strategy.sequence, placements=given)
    return None


def best_scheme(program: Program, *, degree: int, sequence: Literal["whole", "split"]) -> Scheme:
    """The program split over `tp` as the rules allow.

    Raises:
        PlanError: nothing of it can be split so.
    """
    scheme = choose_placements(program, degree=degree, sequence=sequence)
    if not scheme.placements:
        raise PlanError(
            f"tensor = {degree}: no parameter can be split over {degree} workers",
            cause="; ".join((*scheme.notes, *scheme.gathered)) or "no dim of a parameter can be divided so",
            alternatives=["another degree", "data parallelism: --set data=2", "--set pipeline=2"],
            command="meshwright plan SCRIPT, without tensor",
        )
    return scheme


def _pipeline(strategy: Strategy, program: Program) -> Pipeline | None:
    if strategy.mesh.pp == 1:
        return None
    given = strategy.pipeline or Pipeline()
    points = possible_cuts(program)
    if given.cuts and {point.path for point in points} >= set(given.cuts):
        return given
    per_worker = 2 if given.schedule == "interleaved" else 1
    stages = given.num_stages if given.cuts else per_worker * strategy.mesh.pp
    if stages > len(points) + 1:
        raise PlanError(
            f"pipeline = {strategy.mesh.pp} with {stages} stages: the model can be cut at {len(points)} points only",
            cause="a stage begins with a module that has parameters, and no value that a step changes is on two stages",
            alternatives=[f"at most {len(points) + 1} stages", "--set tensor=2", "data parallelism: --set data=2"],
            command="meshwright plan SCRIPT, without pipeline",
        )
    times = [work_time(operation_of(node, 1), Rates()) for node in Flow(program).operations]
    bounds = [0, *(point.place for point in points), len(times)]
    paths = ["", *(point.path for point in points)]
    pieces = [
        Piece(path=path, time=_sum(times[start:end]))
        for path, start, end in zip(paths, bounds[:-1], bounds[1:], strict=True)
    ]
    balance = balanced_cuts(pieces, [StageWorker() for _ in range(stages)])
    return replace(given, cuts=balance.cuts)


def _sum(times: list[Seconds]) -> Seconds:
    return sum(times, 0.0)
