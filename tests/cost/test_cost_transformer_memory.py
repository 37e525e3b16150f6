"""Memory of transformers by their dimensions: published formulas, hand-computed states, and what must never shrink."""

from dataclasses import replace
from math import exp, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.cost import Mesh
from meshwright.cost.memory import (
    Arrangement,
    Backlog,
    Conventions,
    StageMemory,
    conventions,
    failure_probability,
    fullest,
    known_conventions,
    saved_by_layer,
    stage_layers,
    stage_memories,
    transformer_contents,
    usable_memory,
    waiting_share,
)
from meshwright.errors import UsageError
from meshwright.graph import Transformer
from meshwright.hardware import Device
from meshwright.units import GIB

PLAIN = Conventions(name="plain", parameter=2, gradient=4, optimizer=12)
GPT = Transformer(layers=24, hidden=1024, heads=16, kv_heads=16, ffn=4096, vocab=50000, sequence=2048)
LLAMA = Transformer(
    layers=16, hidden=2048, heads=32, kv_heads=32, ffn=8192, vocab=131072, sequence=4096, gated=True, tied=True
)


def stages(model: Transformer, arrangement: Arrangement, own: Conventions = PLAIN) -> tuple[StageMemory, ...]:
    return stage_memories(transformer_contents(model, arrangement, own), arrangement, own)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_layer_saves_what_the_published_formula_says(micro_batch: int) -> None:
    """34 s b h + 5 a s^2 b bytes (Korthikanti et al. 2022, equation 1)."""
    s, b, h, a = 2048, micro_batch, 1024, 16
    arrangement = Arrangement(micro_batch=b, attention="scores", dropout="on")
    assert saved_by_layer(GPT, arrangement, PLAIN) == 34 * s * b * h + 5 * a * s**2 * b


@pytest.mark.parametrize("degree", [2, 8])
def test_tensor_ranks_share_all_but_ten_of_the_thirty_four(degree: int) -> None:
    """s b h (10 + 24 / t) + 5 a s^2 b / t, and all of it divided with the sequence split (ibid., equations 2 and 4)."""
    s, h, a = 2048, 1024, 16
    whole = Arrangement(mesh=Mesh(tp=degree), attention="scores", dropout="on")
    scores = 5 * a * s**2 / degree
    assert saved_by_layer(GPT, whole, PLAIN) == s * h * (10 + 24 / degree) + scores
    assert saved_by_layer(GPT, replace(whole, sequence="split"), PLAIN) == s * h * 34 / degree + scores


def test_recomputation_leaves_scores_out_or_keeps_only_the_input() -> None:
    """Selective: 34 s b h (dropout of scores is gone with them); full: 2 s b h; the first stage keeps embeddings."""
    s, h = 2048, 1024
    base = Arrangement(attention="scores", dropout="on")
    saved = {
        choice: transformer_contents(GPT, replace(base, recomputation=choice), PLAIN)[0].saved - 2 * s * h
        for choice in ("selective", "full")
    }
    assert saved == {"selective": 24 * 34 * s * h, "full": 24 * 2 * s * h}


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, (1, 1)), (1 / 6, (0.5, 1)), (1 / 3, (0, 1)), (2 / 3, (0, 0.5)), (1, (0, 0))]
)
def test_computing_a_share_of_the_operations_again_drops_scores_first(share: float, kept: tuple[float, float]) -> None:
    """34 s b h beside 5 a s^2 b: a third of the operations hold the scores."""
    s, h, a = 2048, 1024, 16
    arrangement = Arrangement(attention="scores", dropout="on", computed_again=(share,))
    saved = transformer_contents(GPT, arrangement, PLAIN)[0].saved - 2 * s * h
    assert saved == pytest.approx(24 * (kept[0] * 5 * a * s**2 + kept[1] * 34 * s * h))


def test_experts_save_for_every_token_sent_to_them() -> None:
    """Two experts a token: twice the inner tensors, and what is sent and comes back (2 x 2 x h numbers a token)."""
    mixture = replace(GPT, experts=8, active_experts=2)
    more = saved_by_layer(mixture, Arrangement(), PLAIN) - saved_by_layer(GPT, Arrangement(), PLAIN)
    assert more == 2048 * 2 * (2 * 4096 + 4 * 1024)


def test_shards_of_experts_are_among_those_who_have_the_same() -> None:
    """8 experts over 4 of 8 data ranks: two have the same, and share its state; everything else has 8 parts."""
    mixture = replace(GPT, experts=8, active_experts=2)
    memory = stages(mixture, Arrangement(mesh=Mesh(dp_shard=8, ep=4), sharding="optimizer"))[0].memory
    experts = 24 * mixture.expert_parameters * 8
    assert memory.optimizer == pytest.approx(12 * ((mixture.num_parameters - experts) / 8 + experts / 4 / 2), rel=0.01)


@pytest.mark.parametrize(
    ("sharding", "expected"),
    [("none", (2, 4, 12)), ("optimizer", (2, 4, 3)), ("gradients", (2, 1, 3))],
)
def test_states_of_a_parameter_under_sharding(sharding: str, expected: tuple[int, int, int]) -> None:
    """16-bit parameters, 32-bit gradients, 12 bytes of optimizer state, over 4 shards (Rajbhandari et al. 2020)."""
    memory = stages(GPT, Arrangement(mesh=Mesh(dp_shard=4), sharding=sharding))[0].memory  # type: ignore[arg-type]
    elements = GPT.num_parameters - GPT.hidden
    assert (memory.parameters, memory.gradients, memory.optimizer) == tuple(size * elements for size in expected)


def test_parameters_in_shards_are_gathered_a_unit_at_a_time() -> None:
    arrangement = Arrangement(mesh=Mesh(dp_shard=8), sharding="parameters")
    memory = stages(GPT, arrangement)[0].memory
    unit = GPT.hidden * GPT.vocab
    assert memory.parameters == round(2 * (GPT.num_parameters - GPT.hidden) / 8 + 2 * 2 * unit)


def test_shards_are_spread_over_workers_that_share_a_sequence() -> None:
    alone = Arrangement(mesh=Mesh(dp_shard=8), sharding="optimizer")
    shared = Arrangement(mesh=Mesh(dp_shard=2, cp=4), sharding="optimizer")
    assert stages(GPT, alone)[0].memory.optimizer == stages(GPT, shared)[0].memory.optimizer


def test_state_on_the_host_takes_none_of_the_device() -> None:
    kept = stages(GPT, Arrangement())[0].memory
    moved = stages(GPT, Arrangement(optimizer_on="host"))[0].memory
    assert (moved.optimizer, kept.peak - moved.peak) == (0, kept.optimizer)


def test_stages_hold_as_many_micro_batches_as_their_schedule_has_under_way() -> None:
    """4 workers: 4, 3, 2, 1 with 1F1B; all 8 with GPipe; 2 (p - i - 1) + (v - 1) p + 1 halves interleaved in two."""
    mesh = Mesh(pp=4)
    held = {
        schedule: [Arrangement(mesh=mesh, micro_batches=8, schedule=schedule, virtual=v).under_way(i) for i in range(4)]
        for schedule, v in (("1f1b", 1), ("gpipe", 1), ("interleaved", 2))
    }
    assert held == {"1f1b": [4, 3, 2, 1], "gpipe": [8] * 4, "interleaved": [5.5, 4.5, 3.5, 2.5]}
    assert [Arrangement(mesh=mesh, micro_batches=2).under_way(stage) for stage in range(4)] == [2, 2, 2, 1]


def test_layers_are_placed_evenly_or_by_cost() -> None:
    """The output layer costs as much as 4 layers: 20 in all, of which the first of two stages gets 10."""
    balanced = replace(PLAIN, placement="balanced")
    assert stage_layers(LLAMA, 2, PLAIN) == (8, 8)
    assert stage_layers(LLAMA, 2, balanced) == (10, 6)
    assert stage_layers(LLAMA, 4, balanced) == (5, 5, 5, 1)
    assert sum(stage_layers(replace(LLAMA, layers=30), 8, balanced)) == 30
    assert stage_layers(replace(LLAMA, layers=30), 4, PLAIN) == (8, 8, 7, 7)


def test_a_tied_matrix_stands_on_the_first_and_the_last_stage() -> None:
    contents = transformer_contents(LLAMA, Arrangement(mesh=Mesh(pp=2)), PLAIN)
    matrix, layers = 2048 * 131072, 8 * LLAMA.layer_parameters
    assert [content.elements for content in contents] == [layers + matrix, layers + matrix]
    whole = transformer_contents(LLAMA, Arrangement(), PLAIN)[0]
    assert whole.elements == 2 * layers + matrix


def test_the_peak_moves_from_the_loss_to_the_backward_and_the_update() -> None:
    """Few activations and many parameters: whole gradients of a backward outweigh the logits."""
    own = replace(PLAIN, produced=2.0)
    short = replace(GPT, sequence=16)
    assert stages(GPT, Arrangement(micro_batch=8), own)[0].moment == "loss"
    assert stages(short, Arrangement(), own)[0].moment == "backward"


def test_an_update_holds_converted_gradients_of_what_it_updates() -> None:
    """4 bytes an element beside 12 of state, and an eighth of both where eight workers share the update."""
    short, own = replace(GPT, sequence=16), replace(PLAIN, updated=4.0)
    whole = stages(short, Arrangement(), own)[0]
    elements = transformer_contents(short, Arrangement(), own)[0].elements
    assert (whole.moment, whole.memory.optimizer) == ("update", 16 * elements)
    shared = stages(short, Arrangement(mesh=Mesh(dp_shard=8), sharding="optimizer"), own)[0]
    assert shared.memory.optimizer == pytest.approx(2 * elements)


@settings(deadline=None, max_examples=60)
@given(
    pp=st.sampled_from([1, 2, 4, 8]),
    tp=st.sampled_from([1, 2, 4, 8]),
    dp=st.sampled_from([1, 2, 8]),
    micro_batch=st.integers(1, 8),
    name=st.sampled_from(sorted(known_conventions())),
)
def test_more_examples_never_take_less_and_more_shards_never_more(
    pp: int, tp: int, dp: int, micro_batch: int, name: str
) -> None:
    own = replace(conventions(name), backlog=Backlog())
    base = Arrangement(
        mesh=Mesh(pp=pp, tp=tp, dp_shard=dp), sharding="optimizer", micro_batch=micro_batch, micro_batches=8
    )

    def peak(arrangement: Arrangement) -> int:
        return fullest(stages(LLAMA, arrangement, own)).memory.peak

    assert peak(replace(base, micro_batch=micro_batch + 1)) >= peak(base)
    assert peak(replace(base, micro_batches=16)) >= peak(base)
    assert peak(replace(base, recomputation="full")) <= peak(base)
    assert peak(replace(base, sequence="split")) <= peak(base)
    assert peak(replace(base, mesh=replace(base.mesh, dp_shard=2 * dp))) <= peak(base) or dp == 1
    first = stages(LLAMA, base, own)[0].memory
    assert first.activations <= stages(LLAMA, replace(base, schedule="gpipe"), own)[0].memory.activations


def test_temporaries_wait_where_the_host_runs_ahead() -> None:
    """A half where the logistic's argument is 0; of two stages' the more the faster the host, of a waiting one none."""
    backlog = Backlog(per_exchange=1.0, lead=2.0)
    deep, pair = (Arrangement(mesh=Mesh(pp=stages, tp=4)) for stages in (4, 2))
    assert waiting_share(backlog, deep) == waiting_share(backlog, pair) == 0.5
    assert waiting_share(backlog, replace(deep, lead=3.0)) == 0.5
    assert waiting_share(backlog, replace(pair, lead=1.0)) == pytest.approx(1 / (1 + exp(-2)))
    assert waiting_share(backlog, replace(deep, lead=-inf)) == 0.0


def test_failure_is_even_at_the_limit_and_certain_far_above() -> None:
    own = replace(PLAIN, limit=0.9, limit_spread=0.1)
    capacity = 80 * GIB
    probabilities = [failure_probability(round(share * capacity), capacity, own) for share in (0.5, 0.9, 1.0, 2.0)]
    assert probabilities[1] == pytest.approx(0.5, abs=1e-6)
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < 1e-6
    assert probabilities[3] > 1 - 1e-9
    assert failure_probability(0, capacity, own) == 0.0


def test_unknown_conventions_name_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no memory conventions named 'caffe'"):
        conventions("caffe")


def test_a_published_run_comes_out_near_its_measurement() -> None:
    """1.34B on 512 H100 in 8 stages, 8 tensor ranks, 8 replicas, 2 sequences: 24.4 GiB without tensor ranks (8 x 8)."""
    own = conventions("nanotron")
    arrangement = Arrangement(
        mesh=Mesh(pp=8, dp_shard=8), sharding="optimizer", sequence="split", micro_batch=2, micro_batches=16
    )
    assert stages(LLAMA, arrangement, own)[0].memory.peak / GIB == pytest.approx(24.4, rel=0.1)


def test_plans_leave_room_on_an_accelerator_and_use_a_processor_whole() -> None:
    """A peak of what may be used fails in a tenth of the cases."""
    accelerator = Device(kind="cuda", name="a", memory=80 * GIB, source="test")
    usable = usable_memory(accelerator)
    assert failure_probability(usable, accelerator.memory, conventions("meshwright")) == pytest.approx(0.1, abs=1e-3)
    assert usable_memory(replace(accelerator, kind="cpu")) == 80 * GIB
