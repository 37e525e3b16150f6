"""Balanced stages against all ways to cut, one by one."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.errors import DoesNotFitError
from meshwright.plan import Piece, StageWorker, balanced_cuts

numbers = st.integers(0, 9).map(float)
chains = st.lists(
    st.builds(
        lambda time, transfer, state, kept: Piece(
            path="", time=time, transfer=transfer, state=int(state), activations=int(kept)
        ),
        numbers,
        numbers,
        numbers,
        numbers,
    ),
    min_size=1,
    max_size=8,
)
crews = st.lists(
    st.builds(
        lambda speed, memory, flying: StageWorker(speed=speed, memory=memory, in_flight=flying),
        st.sampled_from([0.5, 1.0, 3.0]),
        st.sampled_from([10.0, 25.0, 60.0, float("inf")]),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
)


def outcomes(pieces, workers):
    """Slowest stage and sum of transfers of every way to cut that fits."""
    for cuts in itertools.combinations(range(1, len(pieces)), len(workers) - 1):
        starts, ends = (0, *cuts), (*cuts, len(pieces))
        stages = [pieces[start:end] for start, end in zip(starts, ends, strict=True)]
        held = [
            sum(piece.state + worker.in_flight * piece.activations for piece in stage)
            for stage, worker in zip(stages, workers, strict=True)
        ]
        if any(size > worker.memory for size, worker in zip(held, workers, strict=True)):
            continue
        entering = [0.0, *(pieces[cut].transfer for cut in cuts)]
        times = [
            transfer + sum(piece.time for piece in stage) / worker.speed
            for transfer, stage, worker in zip(entering, stages, workers, strict=True)
        ]
        yield max(times), sum(entering), cuts


@settings(max_examples=300, deadline=None)
@given(chains, crews)
def test_no_way_to_cut_is_better(chain, workers):
    pieces = [
        Piece(path=str(place), time=one.time, transfer=one.transfer, state=one.state, activations=one.activations)
        for place, one in enumerate(chain)
    ]
    every = list(outcomes(pieces, workers))
    if not every:
        with pytest.raises(DoesNotFitError):
            balanced_cuts(pieces, workers)
        return
    found = balanced_cuts(pieces, workers)
    fastest = min(slowest for slowest, _, _ in every)
    assert found.slowest == pytest.approx(fastest)
    least = min(total for slowest, total, _ in every if slowest == pytest.approx(fastest))
    assert sum(pieces[int(cut)].transfer for cut in found.cuts) == pytest.approx(least)
    assert tuple(int(cut) for cut in found.cuts) in [cuts for _, _, cuts in every]
    assert all(size <= worker.memory for size, worker in zip(found.memory, workers, strict=True))


def test_a_slow_worker_gets_less():
    pieces = [Piece(path=f"layers.{number}", time=1.0) for number in range(9)]
    found = balanced_cuts(pieces, [StageWorker(speed=1.0), StageWorker(speed=2.0)])
    assert found.cuts == ("layers.3",)
    assert found.times == (3.0, 3.0)


def test_more_micro_batches_in_flight_make_the_first_stage_shorter():
    pieces = [Piece(path=f"layers.{number}", time=1.0, activations=10) for number in range(6)]
    found = balanced_cuts(pieces, [StageWorker(memory=40, in_flight=2), StageWorker(memory=40, in_flight=1)])
    assert found.cuts == ("layers.2",)
    assert found.memory == (40.0, 40.0)


def test_what_does_not_fit_says_how_much_is_needed():
    pieces = [Piece(path=f"layers.{number}", time=1.0, state=1024) for number in range(4)]
    with pytest.raises(DoesNotFitError, match=r"4.00 KiB.*the workers have 2.00 KiB"):
        balanced_cuts(pieces, [StageWorker(memory=1024)] * 2)
    with pytest.raises(DoesNotFitError, match="5 stages cannot be made of 4 pieces"):
        balanced_cuts(pieces, [StageWorker()] * 5)


def test_a_thousand_pieces_on_sixteen_workers():
    pieces = [Piece(path=str(number), time=1.0 + number % 7) for number in range(1000)]
    found = balanced_cuts(pieces, [StageWorker()] * 16)
    whole = sum(piece.time for piece in pieces)
    assert whole / 16 <= found.slowest < whole / 16 + 7
