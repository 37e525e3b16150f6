"""What is said when nothing fits."""

import pytest

import planning_builders as build
from meshwright.errors import DoesNotFitError
from meshwright.graph import Graph
from meshwright.plan import Goal, Pins, shortlist


def _error(graph: Graph, goal: Goal) -> DoesNotFitError:
    with pytest.raises(DoesNotFitError) as raised:
        shortlist(graph, build.machine(), goal)
    return raised.value


def test_a_batch_that_cannot_be_cut_up() -> None:
    """BatchNorm forbids micro-batches. Two layers, 100 kB saved per example and layer, 8 MB of parameters and of
    gradients, 16 MB of state, 200 MB of context; 2000 examples save 2 · 200 MB. When the first gradient is complete,
    n examples need 0.204 MB · n + 228 MB, a tenth of activations and gradients for gaps and 26.2 MB to pack operands:
    872 of them 450 MB."""
    graph = build.multilayer(batch=2000, traits=("batch_norm",), scale=25.0)
    error = _error(graph, Goal(memory_limit=450_000_000, pins=Pins(matrix_library="default", allocator="default")))
    assert error.exit_code == 3
    assert str(error) == (
        "Multilayer needs at least 670.07 MiB; 429.15 MiB may be used\n"
        "  because: 1 worker × 2 threads: activations 381.47 MiB, context 190.73 MiB, allocator 63.53 MiB, "
        "optimizer 15.26 MiB, parameters 7.63 MiB, batch 7.63 MiB\n"
        "  instead: a batch of 872 examples instead of 2000: 1 worker × 2 threads needs 429.10 MiB per worker\n"
        "  instead: at least 670.07 MiB of memory per host: 1 worker × 2 threads\n"
        "  next:    meshwright plan SCRIPT, with one of these changes"
    )


def test_the_batch_that_is_offered_fits_and_one_more_does_not() -> None:
    goal = Goal(memory_limit=450_000_000)
    traits = ("batch_norm",)
    assert shortlist(build.multilayer(batch=872, traits=traits, scale=25.0), build.machine(), goal).candidates
    _error(build.multilayer(batch=873, traits=traits, scale=25.0), goal)


def test_pins_that_stand_in_the_way_are_named_with_what_fits_without_them() -> None:
    error = _error(
        build.multilayer(batch=2000, scale=25.0),
        Goal(memory_limit=450_000_000, pins=Pins(accumulation=1, workers=1, recompute="none")),
    )
    assert error.alternatives[0].startswith("leave out accumulation = 1: 1 worker × 2 threads, accumulation")
    assert error.alternatives[0].endswith("MiB per worker")
    assert error.alternatives[1].startswith("a batch of ")


def test_a_model_larger_than_the_machine_is_told_how_much_it_needs() -> None:
    """Even one example does not fit, only more memory helps: 0.4 GB of parameters, as much of gradients, 0.8 GB of
    state and 0.2 GB of context, 66 MB for gaps and packing, are 1.74 GiB."""
    error = _error(build.multilayer(layers=100), Goal(memory_limit=450_000_000))
    assert [text.split(":")[0] for text in error.alternatives] == ["at least 1.74 GiB of memory per host"]
