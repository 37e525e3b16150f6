"""What earlier runs of a job teach, and what this one's outcome is filed under."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.cost import Compression, Exchange, Mesh, Strategy, Updates
from meshwright.hardware import Correction, Outcome, record_outcome
from meshwright.plan import Pins
from meshwright.run._experience import Experience
from planning_builders import machine, multilayer, two_workers

# two layers of 1000 × 1000: 2·10^6 parameters; three products of 2 MFLOP, 2 layers, 100 examples: 1.2·10^9 FLOP
KIND = "Multilayer of 10^6 parameters, 10^9 FLOP, on cpu"


def experience(*, load: float = 0.0, loop: str = "") -> Experience:
    return Experience(graph=multilayer(), cluster=machine(), loop=loop, load=lambda: load)


@pytest.mark.parametrize(
    ("strategy", "pins", "form"),
    [
        (two_workers(), Pins(workers=2), ""),
        (two_workers(mesh=Mesh(tp=2)), Pins(tensor=2), ", split by tensor"),
        (
            two_workers(exchange=Exchange(updates=Updates(kind="local"))),
            Pins(updates="local"),
            ", local updates",
        ),
        (
            two_workers(exchange=Exchange(compression=Compression(method="int8"))),
            Pins(compression="int8", updates="every_step"),
            ", int8 compression",
        ),
    ],
)
def test_what_is_pinned_is_looked_up_under_what_its_strategy_is_filed_under(
    strategy: Strategy, pins: Pins, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two runs of twice the time: what is known of this kind is 2."""
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path))
    own = experience()
    kind = own.kind(strategy)
    assert kind == KIND + form
    seen = Outcome(kind=kind, predicted_step=1.0, measured_step=2.0, load=0.0, planned_load=0.0)
    for _ in range(2):
        record_outcome(own.cluster.identity, seen)
    assert own.correction(pins, basis="model").time == pytest.approx(2.0)
    assert experience(load=0.5).correction(pins, basis="model") == Correction()
    assert experience(loop="in a loop of its own").correction(pins, basis="model") == Correction()


def test_workers_on_two_hosts_and_own_loops_are_kinds_of_their_own() -> None:
    own, strategy = experience(loop="in a loop of its own"), two_workers()
    first, second = strategy.workers
    apart = replace(strategy, workers=(first, replace(second, host="there")))
    assert own.kind(apart) == f"{KIND}, in a loop of its own, over 2 hosts"


def test_where_nothing_is_known_the_load_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path))

    def never() -> float:
        raise AssertionError("measured all the same")

    own = Experience(graph=multilayer(), cluster=machine(), load=never)
    assert own.correction(Pins(), basis="model") == Correction()
