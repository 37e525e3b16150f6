"""Predictions of published rows: the format, what is refused, and that nothing measured is read."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

import published
from meshwright.cost.accelerator import step_time
from meshwright.errors import UsageError
from meshwright.hardware import catalog
from published_hardware import device_name
from published_rows import ESSENTIAL, NEEDED, configuration, measured_step_time, read_rows
from published_setup import framework_class, machine_of_row, setup_of

DENSE = {
    "row_id": "made-up-1", "source": "made-up", "n_layers": "12", "d_model": "768", "n_heads": "12", "ffn_type": "gelu",
    "vocab": "50304", "seq_len": "1024", "hardware": "A100-SXM-80GB", "n_devices": "8", "devices_per_node": "8",
    "precision": "bf16", "framework": "PyTorch FSDP", "global_batch": "64", "micro_batch": "8", "tp": "1", "pp": "1",
    "dp": "8", "sharding": "FSDP2(zero3)", "activation_checkpointing": "none",
}  # fmt: skip
EXPERTS = DENSE | {
    "row_id": "made-up-2", "ffn_type": "swiglu", "n_kv_heads": "4", "n_experts": "8", "topk": "2", "ep": "4",
    "hardware": "H100-SXM-80GB (EFA)", "n_devices": "64", "precision": "fp8", "framework": "NeMo/Megatron-Core",
    "tp": "2", "pp": "4", "vpp": "3", "cp": "2", "dp": "4", "sharding": "zero1 (distributed optimizer)", "d_ff": "2048",
}  # fmt: skip
UNKNOWN = DENSE | {"row_id": "made-up-3", "hardware": "Abacus 9000"}


def written(path: Path, *rows: Mapping[str, str], columns: tuple[str, ...] = NEEDED) -> Path:
    """A file of rows; what a row does not say is blank."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_predictions_have_the_format_and_leave_out_what_cannot_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three rows; six columns; times inside their intervals; the third row's reason is printed."""
    out = tmp_path / "predictions.csv"
    assert published.main([str(written(tmp_path / "rows.csv", DENSE, EXPERTS, UNKNOWN)), str(out)]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["row_id"] for line in lines] == ["made-up-1", "made-up-2"]
    assert tuple(lines[0]) == published.COLUMNS
    for line in lines:
        low, step, high = (float(line[f"{name}_step_time_s"]) for name in ("low", "predicted", "high"))
        assert 0 < low < step < high < 10
        assert float(line["predicted_memory_gib"]) > 1
        assert line["predicted_fits"] == "true"
    printed = capsys.readouterr()
    assert "2 of 3 rows predicted" in printed.out
    assert "1 left out: no device 'Abacus 9000'" in printed.err


def test_measured_columns_change_nothing(tmp_path: Path) -> None:
    """The same prediction with and without what was measured."""
    with_measured = DENSE | {"status": "ok", "step_time_s": "123", "tokens_per_s_per_device": "1", "memory_gib": "70"}
    columns = (*NEEDED, "status", "step_time_s", "tokens_per_s_per_device", "memory_gib")
    path = written(tmp_path / "rows.csv", with_measured, columns=columns)
    assert published.predicted(read_rows(path)[0]) == published.predicted(DENSE | dict.fromkeys(NEEDED, "") | DENSE)
    assert measured_step_time(read_rows(path)[0]) == 123.0


def test_a_file_without_what_no_run_can_do_without_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names the columns that are missing; others are taken as blank."""
    needed = tuple(name for name in NEEDED if name not in ("seq_len", "vocab"))
    path = written(tmp_path / "rows.csv", DENSE, columns=needed)
    assert published.main([str(path), str(tmp_path / "out.csv")]) == UsageError.exit_code
    assert "missing: seq_len\n" in capsys.readouterr().err
    path = written(tmp_path / "essential.csv", DENSE, columns=ESSENTIAL)
    assert published.main([str(path), str(tmp_path / "out.csv")]) == 0
    assert "1 of 1 rows predicted" in capsys.readouterr().out


def test_lines_that_are_no_rows_do_not_cost_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte order mark, a line too short, one too long, bytes that are no text: the good row is predicted."""
    path = written(tmp_path / "rows.csv", DENSE)
    good = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"short,row\n" + b"x," * 80 + b"\n\xff\xfe\n")
    assert published.main([str(path), str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr()
    assert "1 of 4 rows predicted" in printed.out
    assert printed.err.count("left out") == 2


def test_a_path_that_is_no_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line of fact and cause, no traceback."""
    assert published.main([str(tmp_path / "none.csv"), str(tmp_path / "out.csv")]) == UsageError.exit_code
    assert "none.csv cannot be read as measurements" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"n_layers": ""}, "n_layers is blank"),
        ({"n_layers": "many"}, "n_layers is 'many', which is not a number"),
        ({"tp": "1.5"}, "tp is 1.5, which is not a whole number"),
        ({"global_batch": "-4"}, "global_batch is -4, which is not a size"),
        ({"seq_len": "1e400"}, "seq_len is 1e400, which is not a size"),
        ({"global_batch": "", "micro_batch": ""}, "global_batch is blank"),
        ({"tp": "16"}, "one replica takes 16 devices"),
        ({"n_heads": "99999"}, "99999 heads share a width of 768"),
    ],
)
def test_a_value_that_cannot_be_is_named(changes: Mapping[str, str], fact: str) -> None:
    """The row, the column and what it says."""
    with pytest.raises(UsageError, match=f"row made-up-1: {fact}"):
        configuration(dict.fromkeys(NEEDED, "") | DENSE | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": "0", "tp": "0", "vpp": "0", "ep": "0", "topk": "0", "cp": "none"},
        {"global_batch": "64 (8 per device)", "vocab": "50,304"},
        {"n_devices": "", "dp": "8"},
        {"global_batch": "", "micro_batch": "4", "grad_accum": "2"},
        {"n_experts": "1", "grad_accum": "n/a", "sharding": "", "framework": ""},
    ],
)
def test_what_a_row_does_not_say_follows_from_the_rest(changes: Mapping[str, str]) -> None:
    """The same run each time: 8 devices, 64 sequences, 8 at a time or 4, one data axis."""
    run = configuration(dict.fromkeys(NEEDED, "") | DENSE | changes)
    assert (run.num_devices, run.dp, run.global_batch, run.tp, run.ep) == (8, 8, 64, 1, 1)
    assert run.micro_batch == float(changes.get("micro_batch") or 8) or run.micro_batches == 1
    assert (run.model.experts, run.model.vocab) == (0, 50304)


@pytest.mark.parametrize(
    ("written_as", "name"),
    [
        ("DGX-A100 40GB", "a100-40"), ("p4d.24xlarge", "a100-40"), ("H100 SXM5 80GB (EOS)", "h100"),
        ("TPU v5e-256", "tpu-v5e"), ("V100 + A100", "v100"), ("T4 and V100-16GB", "t4"), ("MI300X (OCI)", "mi300x"),
        ("GB200 NVL72", "gb200"), ("NVIDIA RTX A6000", "a6000"), ("RTX 6000 Ada", "l40"),
        ("trn2.48xlarge", "trainium2"),
        ("GeForce RTX 2080 Ti", "rtx2080ti"), ("H20-96GB", "h20"), ("H200", "h200"),
    ],
)  # fmt: skip
def test_devices_are_told_by_what_publications_call_them(written_as: str, name: str) -> None:
    """Of several kinds the slowest, which the others wait for."""
    assert device_name(written_as) == name


def test_a_row_is_read_as_it_was_run() -> None:
    """Experts, 8 bits, an interleaved pipeline, optimizer shards; 64 / (4·8) micro-batches; no link stated."""
    run = configuration(dict.fromkeys(NEEDED, "") | EXPERTS)
    setup, where = setup_of(run), machine_of_row(run)
    assert (run.model.experts, run.model.active_experts, run.model.kv_heads) == (8, 2, 4)
    assert (setup.matrix_type, setup.stages_per_worker, setup.sharding) == ("float8", 3, "optimizer")
    assert (setup.micro_batches, setup.sequence_split, setup.fused_attention) == (2, True, True)
    assert (where.domain, where.num_hosts, where.link, where.network) == (8, 8, 450e9, 50e9)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"precision": "fp16"}, 2),
        ({"precision": "bf16"}, 0),
        ({"precision": "fp16", "notes": "fp32_allreduce=True"}, 4),
    ],
)
def test_gradients_travel_as_megatron_sums_them(changes: Mapping[str, str], size: float) -> None:
    """As they are in float16, unless the notes say otherwise; bfloat16 ones are accumulated in 32 bits."""
    assert setup_of(configuration(DENSE | {"framework": "Megatron-LM"} | changes)).gradient_bytes == size


def test_a_makers_own_hosts_have_a_card_per_device() -> None:
    """200 Gb/s on a DGX A100, for the quarter of a cloud's host of the same devices."""
    clouds, makers = (
        configuration(DENSE | {"hardware": name}) for name in ("A100-SXM-40GB", "A100-SXM-40GB (DGX-A100)")
    )
    assert machine_of_row(makers).network == 25e9
    assert machine_of_row(clouds).network == 6.25e9


@pytest.mark.parametrize(("column", "reason"), [("n_layers", "layers"), ("n_devices", "devices")])
def test_sizes_that_nobody_means_are_left_out(column: str, reason: str) -> None:
    """They would be gone through one by one."""
    with pytest.raises(UsageError, match=f"has 999999999 {reason}"):
        configuration(dict.fromkeys(NEEDED, "") | DENSE | {column: "999999999", "dp": ""})


def test_experts_may_be_split_over_fewer_workers_than_attention() -> None:
    """As much of attention on each of 2 tensor workers, and twice as much of its experts."""
    split, whole = (
        setup_of(configuration(dict.fromkeys(NEEDED, "") | EXPERTS | {"etp": degree})) for degree in ("", "1")
    )
    assert (split.expert_tensor, whole.expert_tensor) == (2, 1)
    each = split.model.expert_parameters * split.model.experts / split.ep
    assert whole.layer_parameters - split.layer_parameters == pytest.approx(each / 2)


@pytest.mark.parametrize("name", sorted(name for name, entry in catalog().devices.items() if entry.kind != "cpu"))
def test_every_accelerator_of_the_catalogue_can_be_predicted(name: str) -> None:
    """By its own name, on two hosts, in 16 bits; a step of the small model takes between 1 ms and 10 s."""
    hardware = catalog().devices[name].name
    run = configuration(dict.fromkeys(NEEDED, "") | DENSE | {"hardware": hardware, "n_devices": "16", "dp": ""})
    assert run.dp == 16
    assert 1e-3 < step_time(setup_of(run), machine_of_row(run)).step < 10


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("bf16", "half"), ("FP8 (current scaling)", "float8"), ("fp8-rowwise", "float8_rows"), ("mxfp8", "float8"),
        ("fp32 params (no fp16 flag; TF32 allowed)", "single"), ("fp32", "single"), ("fp16", "half"), ("", "half"),
    ],
)  # fmt: skip
def test_precisions_are_told_by_what_is_written(precision: str, kind: str) -> None:
    """The type of the inputs of matrix products."""
    assert setup_of(configuration(dict.fromkeys(NEEDED, "") | DENSE | {"precision": precision})).matrix_type == kind


def test_frameworks_are_told_by_their_names() -> None:
    """In the order of what is most particular."""
    names = (
        "nanotron",
        "NeMo/Megatron-Core",
        "Megatron-DeepSpeed",
        "Megatron-LM",
        "Composer + FSDP",
        "MaxText",
        "Abacus",
    )
    known = [framework_class(name) for name in names]
    assert known == ["nanotron", "megatron_core", "deepspeed", "megatron", "fsdp", "megatron_core", "other"]
