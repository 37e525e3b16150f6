"""Peaks of published rows: what rows say and do not say, pipelines that cannot be driven, and how fits are stored."""

import itertools
import tomllib
from collections.abc import Mapping
from math import inf, isfinite

import pytest

from calibration_memory import FITTED, Sample, _fit, _put, with_values
from meshwright.cost.memory import conventions, fullest, known_conventions, stage_memory, transformer_contents
from meshwright.units import GIB
from published_memory import PublishedMemory, published_memory, row_arrangement, row_conventions
from published_rows import NEEDED, configuration
from published_setup import lead_of, setup_of

NANOTRON = dict.fromkeys(NEEDED, "") | {
    "row_id": "made-up-1", "source": "made-up", "n_layers": "16", "d_model": "2048", "n_heads": "32",
    "n_kv_heads": "32", "d_ff": "8192", "ffn_type": "swiglu", "vocab": "131072", "tied_embeddings": "True",
    "seq_len": "4096", "hardware": "H100-SXM-80GB", "n_devices": "64", "devices_per_node": "8", "precision": "bf16",
    "framework": "nanotron", "global_batch": "256", "micro_batch": "1", "tp": "8", "pp": "4", "dp": "2",
    "sharding": "zero1", "activation_checkpointing": "none", "attention_impl": "flash2",
}  # fmt: skip
MEGATRON = NANOTRON | {
    "framework": "Megatron-LM", "ffn_type": "gelu", "precision": "fp16", "sharding": "none", "pp": "1", "tp": "1",
    "n_devices": "2", "attention_impl": "", "micro_batch": "8", "seq_len": "1024", "vocab": "51200",
}  # fmt: skip


def predicted(row: Mapping[str, str]) -> PublishedMemory:
    return published_memory(configuration(row))


def test_a_pipeline_with_too_few_micro_batches_or_an_idle_stage_does_not_run() -> None:
    """16 stages for 16 layers whose output layer costs 4 more leave the last ones empty; 4 stages do not."""
    assert predicted(NANOTRON).reason == ""
    assert predicted(NANOTRON | {"pp": "16", "n_devices": "256"}).reason == (
        "16 layers and an output layer leave the last of 16 stages without anything"
    )
    few = predicted(NANOTRON | {"pp": "8", "micro_batch": "64", "n_devices": "128"})
    assert few.reason == "2 micro-batches for a pipeline of 8: its schedule needs 7"
    assert not few.fits


def test_what_fits_and_what_does_not() -> None:
    """One sequence on 8 tensor ranks, and sixteen on 1: 128 times the activations."""
    small, large = predicted(NANOTRON), predicted(NANOTRON | {"micro_batch": "16", "tp": "1", "n_devices": "8"})
    assert (small.fits, large.fits) == (True, False)
    assert small.failure < 1e-3
    assert large.failure > 0.999


def test_nanotron_reports_its_first_stage_and_others_their_fullest() -> None:
    first = predicted(NANOTRON)
    assert first.seen == first.stages[0].memory.peak
    pipeline = predicted(MEGATRON | {"pp": "2", "n_devices": "4"})
    assert pipeline.seen == fullest(pipeline.stages).memory.peak


def test_a_row_that_does_not_say_what_it_recomputes_recomputed_what_it_had_to() -> None:
    """8 sequences on 32 GB do not fit with everything kept."""
    small_device = {"hardware": "V100-SXM3-32GB (DGX-2)"}
    stated = predicted(MEGATRON | small_device)
    silent = predicted(MEGATRON | small_device | {"activation_checkpointing": ""})
    assert not stated.fits
    assert silent.fits
    assert silent.seen < stated.seen


def test_notes_say_layers_per_stage_and_what_is_computed_again() -> None:
    """Pseudo-layers of embedding and head are no layers; notes that do not add up are passed over.

    Of 22 with 16 blocks two are before them, an embedding and a transposition, and four behind: a transposition, a
    norm, the output layer, a cast.
    """
    notes = "layers per stage [9, 9] (incl. embedding and head pseudo-layers)"
    row = MEGATRON | {"pp": "2", "n_devices": "4"}
    own = conventions("megatron")
    assert row_arrangement(configuration(row | {"notes": notes}), own).layers == (8, 8)
    assert row_arrangement(configuration(row | {"notes": notes.replace("9, 9", "10, 8")}), own).layers == (9, 7)
    again = "recomputed-op fraction per stage [0.5, 0.25]"
    assert row_arrangement(configuration(row | {"notes": again}), own).computed_again == (0.5, 0.25)
    assert row_arrangement(configuration(row | {"notes": again, "pp": "1"}), own).computed_again == ()
    parts = row_arrangement(configuration(row | {"notes": "ops per stage [30, 10]"}), own).layers
    assert parts == (12, 4)
    bounds = "stage boundaries [0, 12, 22] (22 pseudo-layers incl. embedding/loss for GPT-2)"
    assert setup_of(configuration(row | {"notes": bounds})).layers == (10, 6)
    assert setup_of(configuration(row | {"notes": bounds.replace("12", "1")})).layers == ()


def test_parameters_in_16_bit_have_conventions_of_their_own() -> None:
    """DeepSpeed accumulates bfloat16 gradients in float32 as well, float16 ones not."""
    names = {
        precision: row_conventions(
            configuration(MEGATRON | {"framework": "Megatron-DeepSpeed", "precision": precision})
        )
        for precision in ("fp16", "bf16")
    }
    assert (names["fp16"].gradient, names["bf16"].gradient) == (2, 6)


def test_nothing_waits_where_messages_make_the_host_wait() -> None:
    """nanotron's pipelines on 64 hosts; on 8 its host is ahead or not by what a layer takes, and holds more."""
    near, far = (configuration(NANOTRON | {"n_devices": str(count)}) for count in (64, 512))
    assert isfinite(lead_of(near))
    assert lead_of(far) == -inf
    assert published_memory(far).asked < published_memory(near).asked


def test_a_host_stays_ahead_of_collectives_over_many_hosts() -> None:
    """512 devices, no pipeline: groups of 16 make the host wait, groups of 32 do not, and hold what waits for them."""
    groups = {tp: NANOTRON | {"tp": str(tp), "pp": "1", "dp": str(512 // tp), "n_devices": "512"} for tp in (16, 32)}
    assert lead_of(configuration(groups[16])) == -inf
    assert isfinite(lead_of(configuration(groups[32])))


def test_a_stage_without_parameters_does_not_run() -> None:
    """Of 22 pseudo-layers with 16 blocks, the second is a transposition."""
    row = MEGATRON | {"pp": "3", "n_devices": "6", "notes": "stage boundaries [0, 1, 12, 22] (22 pseudo-layers)"}
    assert predicted(row).reason == ""
    alone = row | {"notes": "stage boundaries [0, 1, 2, 22] (22 pseudo-layers)"}
    assert predicted(alone).reason == "a stage without parameters: its optimizer has nothing to flatten"
    unknown = row | {"notes": "stage boundaries [0, 1, 2, 20] (20 pseudo-layers)"}
    assert predicted(unknown).reason == ""


def test_a_fit_finds_the_factor_that_peaks_were_made_with() -> None:
    """Peaks made with 1.3 times the activations; the prior, at 1.05, pulls by less than 2 %."""
    name = "sailor"
    priors = FITTED[name,]
    truth = with_values(conventions(name), {"activations": 1.3, "logits": 9.0, "fixed": 3 * GIB})
    samples = []
    for micro_batch, layers in itertools.product(("1", "2", "4", "8", "16", "32"), ("2", "8", "32", "96")):
        row = configuration(MEGATRON | {"framework": "Sailor", "micro_batch": micro_batch, "n_layers": layers})
        arrangement = row_arrangement(row, truth)
        contents = transformer_contents(row.model, arrangement, truth)
        peak = stage_memory(contents[0], 0, arrangement, truth).memory.peak
        samples.append(
            Sample(
                model="m",
                workers=2,
                conventions=name,
                measured=peak,
                arrangement=arrangement,
                contents=contents,
                capacity=80 * GIB,
            )
        )
    found = dict(zip(priors, _fit(priors, samples), strict=True))
    assert found["activations"] == pytest.approx(1.3, rel=0.02)


def test_storing_a_factor_changes_its_line_or_adds_one_before_comments() -> None:
    text = "[a]\nx = 1\n\n# about b\n[b]\nx = 2\n\n[b.c]\ny = 3\n"
    changed = _put(_put(_put(text, "a", "z", 0.123456), "b", "x", 7.0), "b.c", "y", 5.0)
    assert changed == "[a]\nx = 1\nz = 0.1235\n\n# about b\n[b]\nx = 7\n\n[b.c]\ny = 5\n"
    assert tomllib.loads(changed)["a"] == {"x": 1, "z": 0.1235}


def test_the_packages_factors_are_physical() -> None:
    """The allocator's gaps add up to two fifths to activations."""
    for own in known_conventions().values():
        assert 0.9 < own.state < 1.3
        assert 0.9 <= own.activations < 1.5
        assert 4 < own.logits < 16
        assert own.fixed < 6 * GIB
        assert 0.7 < own.limit < 1.2
