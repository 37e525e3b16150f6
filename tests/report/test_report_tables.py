"""The tables of the terminal, as text."""

import subprocess
import sys
from dataclasses import replace

import pytest
import report_builders as build
from rich.console import Console, RenderableType

from meshwright.cost import MemoryBreakdown, Mesh, Placement, RateSource, TimeBreakdown
from meshwright.hardware import OperationRate
from meshwright.plan import Candidate, PlannedStage, RankMemory, difference, explain
from meshwright.report import (
    difference_view,
    examples_table,
    explanation_view,
    hardware_table,
    layout_view,
    outcome_table,
    outcomes,
    plan_table,
    verification_table,
)
from meshwright.report._outcome import describe_error, format_error
from meshwright.units import GIB, MIB


def _text(table: RenderableType, width: int = 160) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text()


def _rows(table: RenderableType) -> list[list[str]]:
    """The cells of a drawn table's lines, without its borders."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in _text(table).splitlines() if "│" in line]


def test_the_chosen_plan_is_marked_and_every_other_has_its_reason() -> None:
    rows = _rows(plan_table(build.plan()))
    assert [row[0] for row in rows].count("✓") == 1
    assert rows[0][0] == "✓"
    assert rows[0][2:5] == ["73.1 ms", "73 ms", "375.00 MiB"]
    assert "15 % slower when tried: two threads reach 1.7 × one" in _text(plan_table(build.plan()))
    assert rows[-1][2:5] == ["–", "–", "–"]


def test_square_brackets_in_a_users_text_are_not_markup() -> None:
    plan = build.plan(candidates=(Candidate(summary="[red]odd[/red]", reason="[bold]"),))
    assert "[red]odd[/red]" in _text(plan_table(plan))
    assert "[bold]" in _text(plan_table(plan))


def test_predicted_beside_measured_with_the_error_in_percent() -> None:
    """73 ms over 77 ms is 5.2 % too low; 20 over 21 4.8 %; 375 MiB over 391 MiB 4.1 %."""
    rows = _rows(outcome_table(build.prediction(), build.measurement()))
    assert rows[0] == ["step time", "73 ms", "77 ms", "−5.2 %"]
    assert rows[1] == ["forward", "20 ms", "21 ms", "−4.8 %"]
    assert rows[-1] == ["peak memory", "375.00 MiB", "391.00 MiB", "−4.1 %"]
    assert "recompute" not in [row[0] for row in rows], "what is nothing on both sides is left out"


def test_an_unmeasured_quantity_has_no_error() -> None:
    nothing = replace(build.measurement(), memory=0, time=TimeBreakdown())
    by_name = {row.name: row for row in outcomes(build.prediction(), nothing)}
    assert by_name["peak memory"].texts == ("375.00 MiB", "–", "–")
    assert by_name["forward"].error is None


@pytest.mark.parametrize(
    ("error", "short", "long"),
    [
        (0.031, "+3.1 %", "3.1 % too high"),
        (-0.052, "−5.2 %", "5.2 % too low"),
        (2.5, "+250 %", "250 % too high"),
        (0.0001, "+0.0 %", "exact"),
        (None, "–", "not comparable"),
    ],
)
def test_an_error_in_percent_and_in_words(error: float | None, short: str, long: str) -> None:
    assert (format_error(error), describe_error(error)) == (short, long)


def test_an_explanation_names_what_binds_what_is_next_and_what_would_flip_it() -> None:
    """The backward takes 42 of 73 ms, 58 %; the next best was 11.2 ms slower when tried."""
    text = _text(explanation_view(explain(build.plan())))
    assert "73 ms per step, between 68 ms and 80 ms (timed in a trial)" in text
    assert "Binding   The backward binds: 42.0 ms of 73.0 ms" in text
    assert "Next best 1 worker × 2 threads, oneDNN matrices, fused optimizer, 11.2 ms slower" in text
    assert "Flips     One worker would win if the exchange took 11.2 ms longer per step." in text
    assert "375.00 MiB of 512.00 MiB" in text
    backward = next(line for line in text.splitlines() if line.strip().startswith("backward"))
    assert "58%" in backward
    assert "█" * 24 in backward
    assert ["workers", "2", "measured"] in _rows(explanation_view(explain(build.plan())))


def test_an_explanation_says_how_likely_memory_runs_out() -> None:
    """A processor that has just what is predicted: as likely as not; with half as much again it is not worth a word."""
    tight, ample = build.plan(capacity=375 * MIB), build.plan(capacity=562 * MIB)
    assert "Memory    50% likely to run out" in _text(explanation_view(explain(tight)))
    assert "likely to run out" not in _text(explanation_view(explain(ample)))


def test_two_plans_are_shown_side_by_side_where_they_differ() -> None:
    other = build.plan(strategy=build.strategy(workers=4))
    assert ["workers", "2", "4"] in _rows(difference_view(difference(build.plan(), other)))
    assert _text(difference_view(difference(other, other))).strip() == "The two plans are the same."


def test_hardware_names_rates_load_and_collectives() -> None:
    text = _text(hardware_table(build.cluster()))
    assert "laptop: 1 device, 2 cores" in text
    assert "others kept 3% of the cores busy" in text
    assert "97 GFLOP/s" in text
    assert "430 GFLOP/s" in text
    assert "shared_memory" in text
    assert "8 GB/s" in text


def test_rates_stand_in_a_row_per_kind_and_a_column_per_way_of_using_the_cores() -> None:
    """The matrix rate is the best of all sizes; an operation's is that of the largest, where no cache helps."""
    cluster = build.cluster()
    rates = tuple(
        OperationRate(kind="copy", threads=threads, size=size, bandwidth=bandwidth, overhead=1e-6)
        for threads, size, bandwidth in ((1, 2**18, 2e11), (1, 2**26, 1.4e10), (2, 2**26, 4.2e10))
    )
    device = replace(cluster.hosts[0].device, operation_rates=rates)
    rows = _rows(hardware_table(replace(cluster, hosts=(replace(cluster.hosts[0], device=device),))))
    assert ["bfloat16", "default", "900 GFLOP/s, inexact", "–"] in rows
    assert ["float32", "onednn", "–", "430 GFLOP/s"] in rows
    assert ["copy", "default", "14 GB/s", "42 GB/s", "1 µs"] in rows


def test_hardware_without_measurements_is_still_shown() -> None:
    cluster = build.cluster()
    device = replace(cluster.hosts[0].device, matrix_rates=(), operation_rates=(), memory=80 * GIB, kind="cuda")
    bare = replace(cluster, measured_at="", hosts=(replace(cluster.hosts[0], device=device, devices=8),), links=())
    text = _text(hardware_table(bare))
    assert "8 × Zen 5" in text
    assert "80.00 GiB" in text


def test_the_proof_shows_distances_beside_what_counts_as_rounding() -> None:
    rows = _rows(verification_table(build.verification()))
    assert rows[1] == ["gradients", "3.1e-07", "1e-05", "head.weight (2.0e-07)"]
    assert rows[2][:3] == ["parameters", "4.0e-06", "1e-03"]
    assert "equal to one device" in _text(verification_table(build.verification()))
    assert "not equal to one device" in _text(verification_table(build.verification(equal=False)))


def test_examples_are_listed_by_name() -> None:
    assert _rows(examples_table({"lstm": "An LSTM."})) == [["lstm", "An LSTM."]]


def test_reports_never_load_torch() -> None:
    program = "import sys, meshwright.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_what_a_model_was_not_captured_whole_for_is_said_with_its_line() -> None:
    construct = "net.py:9: 'if y.max() > 0:' (reads the value of a tensor); captured by module"
    made = build.plan(strategy=build.strategy(workers=1), uncaptured=(construct,))
    assert f"Captured  {construct}" in _text(layout_view(made))
    assert "Captured" not in _text(layout_view(replace(made, uncaptured=())))


def test_what_every_worker_does_whole_is_said() -> None:
    shown = _text(layout_view(build.plan(gathered=tuple(f"aten.sort in layer{number} …" for number in range(9)))))
    assert "Whole     aten.sort in layer7 …" in shown
    assert "Whole     and 1 more" in shown


def test_equal_shards_are_said_too() -> None:
    strategy = replace(build.strategy(workers=8), mesh=Mesh(dp_shard=8), sharding="parameters")
    assert "Shards    of parameters, over dp_shard: 12.500% each" in _text(layout_view(build.plan(strategy=strategy)))


def test_a_plan_says_what_a_step_and_a_million_tokens_cost() -> None:
    """A step of 73 ms on 250,000 tokens for 7.2 kJ, which are 2 Wh, and half a cent: four times that a million."""
    known = replace(build.prediction(), energy=7200.0, money=0.005)
    shown = _text(layout_view(build.plan(prediction=known, tokens=250_000.0)))
    assert "2 Wh, $0.005; a million tokens: 8 Wh, $0.02" in shown
    unknown = _text(layout_view(build.plan(tokens=250_000.0)))  # the interval also where no figure is known
    assert "Each step 73 ms (" in unknown
    assert "a million tokens" not in unknown


def test_the_fullest_worker_is_the_one_with_least_to_spare() -> None:
    """375 MiB of 24 GiB, the plan's own figure, beside a worker that has more of a larger device's."""
    plan = build.plan(capacity=24 * GIB)
    held = (
        RankMemory(first=0, last=0, device="H200", memory=MemoryBreakdown(parameters=GIB), moment="loss",
                   capacity=141 * GIB),
        RankMemory(first=1, last=1, device="V100", memory=plan.prediction.memory, moment="update", capacity=24 * GIB),
    )  # fmt: skip
    stages = tuple(
        PlannedStage(worker=place, first="", blocks=4, recomputed=0, memory=one.memory.peak, moment=one.moment)
        for place, one in enumerate(held)
    )
    strategy = replace(plan.strategy, mesh=Mesh(pp=2))
    shown = _text(layout_view(replace(plan, held=held, stages=stages, strategy=strategy)))
    assert "Memory    375.00 MiB of 24.00 GiB, in the update of stage 2; 0.0% likely to run out" in shown
    alone = _text(layout_view(replace(plan, held=held[1:])))
    assert "Memory    375.00 MiB of 24.00 GiB, in the update; 0.0% likely to run out" in alone


@pytest.mark.parametrize(
    ("rates", "text"),
    [("fitted", "the catalogue’s figures"), ("written", "the cluster file’s"), ("measured", "the machine’s measured")],
)
def test_an_explanation_says_where_its_rates_come_from(rates: RateSource, text: str) -> None:
    known = replace(build.prediction(), basis="model", rates=rates)
    assert f"(from {text}" in _text(explanation_view(explain(build.plan(prediction=known))))


def test_memory_is_listed_by_rank() -> None:
    """Of 4 GiB two are parameters and half a one is state; what has no column of its own is the rest."""
    memory = MemoryBreakdown(context=GIB, parameters=2 * GIB, optimizer=GIB // 2, batch=GIB // 2)
    held = tuple(
        RankMemory(first=first, last=last, device="H100", memory=memory, moment="update", capacity=80 * GIB)
        for first, last in ((0, 2), (3, 3))
    )
    strategy = replace(build.strategy(workers=4), mesh=Mesh(dp_replicate=4))
    rows = _rows(layout_view(build.plan(strategy=strategy, held=held)))
    sizes = ["2.00 GiB", "0 B", "512.00 MiB", "0 B", "1.50 GiB", "4.00 GiB", "80.00 GiB", "update"]
    assert [row for row in rows if "H100" in row] == [["0 to 2", "H100", *sizes], ["3", "H100", *sizes]]
    many = tuple(replace(held[1], first=rank, last=rank) for rank in range(40))
    assert "and 8 more lines, with --json" in _text(layout_view(build.plan(strategy=strategy, held=many)))


def test_stages_name_the_workers_that_have_them() -> None:
    """Four workers on each of two places; the third stage of an interleaved pipeline is on the first place again."""
    strategy = replace(build.strategy(workers=8), mesh=Mesh(pp=2, dp_replicate=2, tp=2))
    stages = tuple(
        PlannedStage(worker=number % 2, first=f"layers.{number}", blocks=1, recomputed=0, memory=GIB)
        for number in range(3)
    )
    rows = _rows(layout_view(build.plan(strategy=strategy, stages=stages)))
    assert [row[:3] for row in rows if row[2:3] and row[2].startswith("layers")] == [
        ["1", "0 to 3", "layers.0"], ["2", "4 to 7", "layers.1"], ["3", "0 to 3", "layers.2"],
    ]  # fmt: skip


def test_parameters_share_a_row_only_where_they_are_split_alike() -> None:
    paths = {"blocks.{}.mlp.0.weight": 0, "blocks.{}.mlp.2.weight": 1, "blocks.{}.mlp.0.bias": 0, "head.1.weight": 0}
    placements = {
        Placement(parameter=path.format(number), axis="tp", dim=dim)
        for number in range(3)
        for path, dim in paths.items()
    }
    strategy = replace(build.strategy(), mesh=Mesh(tp=2), placements=tuple(sorted(placements, key=str)))
    rows = [
        row.split("│")[1:-1] for row in _text(layout_view(build.plan(strategy=strategy))).splitlines() if "tp " in row
    ]
    found = {tuple(cell.strip() for cell in row) for row in rows if len(row) == 4}
    assert found == {
        ("blocks.*.mlp.0.weight", "tp", "0", "3"),
        ("blocks.*.mlp.2.weight", "tp", "1", "3"),
        ("blocks.*.mlp.0.bias", "tp", "0", "3"),
        ("head.1.weight", "tp", "0", "1"),
    }
