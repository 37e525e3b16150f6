"""Splits derived from operations alone: a Llama-like and a GPT-2-like model, and one that cannot be split."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from meshwright.graph import Graph, Splits, derived_splits, instances
from meshwright.graph.capture import capture

transformers = pytest.importorskip("transformers")


def _captured(model: nn.Module, sequence: int = 256) -> Graph:
    tokens = torch.zeros(2, sequence, dtype=torch.long, device="meta")
    optimizer = torch.optim.AdamW(model.parameters())
    return capture(model, optimizer, lambda model, batch: model(input_ids=batch, labels=batch).loss, tokens)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def llama() -> Graph:
    return _captured(_llama())


@pytest.fixture(scope="module")
def found(llama: Graph) -> Splits:
    return derived_splits(llama)


def test_tensor_degrees_divide_heads_of_keys_and_widths(found: Splits) -> None:
    assert found.tensor is not None
    assert found.tensor.degrees == (2, 4)


def test_projections_split_as_transformers_own_plan_says(found: Splits) -> None:
    """`base_model_tp_plan` of the configuration is the oracle: columnwise is dim 0 of a weight, rowwise dim 1."""
    assert found.tensor is not None
    dims = {item.path: item.dim for item in found.tensor.parameters}
    for pattern, style in transformers.LlamaConfig.base_model_tp_plan.items():
        if pattern.startswith("layers."):
            name = f"model.{pattern.replace('*', '0')}.weight"
            assert dims[name] == (1 if "rowwise" in style else 0), name
    assert dims["lm_head.weight"] == dims["model.embed_tokens.weight"] == 0


def test_what_is_divided_carries_all_matrix_work(llama: Graph, found: Splits) -> None:
    assert found.tensor is not None
    whole = [
        item.name for index, item in enumerate(llama.operations)
        if item.kind in ("matrix", "attention") and index not in found.tensor.operations
    ]  # fmt: skip
    assert whole == []


def test_two_sums_forward_and_two_backward_a_layer(found: Splits) -> None:
    """Each of 2 × 256 positions has 64 float32 numbers: 64 KiB an example and sum; the vocabulary has three more."""
    assert found.tensor is not None
    layers = [item for item in found.tensor.whole if item.repeats == 3]
    assert [(item.name, item.phase, item.size.per_example) for item in layers] == [
        ("all_reduce", "forward", 65536), ("all_reduce", "backward", 65536),
        ("all_reduce", "forward", 65536), ("all_reduce", "backward", 65536),
    ]  # fmt: skip
    assert len(found.tensor.whole) == 4 + 3
    split = [item for item in found.tensor.split if item.repeats == 3]
    assert sorted(item.name for item in split) == ["all_gather"] * 4 + ["reduce_scatter"] * 4


def test_cut_before_every_layer_and_before_the_last_norm(llama: Graph, found: Splits) -> None:
    assert [cut.path for cut in found.cuts] == [*(f"model.layers.{index}" for index in range(3)), "model.norm"]
    assert [item.path for item in instances(llama)] == [f"model.layers.{index}" for index in range(3)]
    assert {cut.size.per_example for cut in found.cuts} == {65536}


def test_context_by_halves_of_the_sequence(found: Splits) -> None:
    """256 positions leave a worker at least 64; keys and values are 2 × 32 of 64 numbers wide."""
    assert found.context is not None
    assert found.context.degrees == (2, 4)
    assert found.context.all_to_all_degrees == (2, 4)
    sent = [item for item in found.context.ring if item.name == "send"]
    assert [(item.phase, item.size.per_example) for item in sent] == [("forward", 65536), ("backward", 131072)]


def test_positions_of_causal_attention_change_hands(llama: Graph) -> None:
    """Queries and outputs of 64 numbers, keys and values of 32: 192 kiB an example, there and back in both phases."""
    causal, full = (
        derived_splits(replace(llama, traits=traits)).context
        for traits in (("causal_attention",), ("masked_attention",))
    )
    assert causal is not None
    assert full is not None
    handed = [(item.phase, item.size.per_example) for item in causal.ring if item.name == "all_to_all"]
    assert handed == [("forward", 3 * 65536), ("backward", 3 * 65536)]
    assert {item.name for item in full.ring} == {"send"}


def test_fused_projection_in_three_groups_and_odd_vocabulary_whole() -> None:
    config = transformers.GPT2Config(vocab_size=257, n_embd=48, n_layer=2, n_head=6)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    found = derived_splits(_captured(model)).tensor
    assert found is not None
    assert found.degrees == (2, 3, 6)
    parts = {item.path.removeprefix("transformer.h.0."): (item.dim, item.groups) for item in found.parameters}
    assert parts == {
        "attn.c_attn.weight": (1, 3), "attn.c_attn.bias": (0, 3), "attn.c_proj.weight": (0, 1),
        "mlp.c_fc.weight": (1, 1), "mlp.c_fc.bias": (0, 1), "mlp.c_proj.weight": (0, 1),
    }  # fmt: skip


def test_experts_of_a_mixture() -> None:
    config = transformers.MixtralConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, num_local_experts=4, dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config).to(torch.bfloat16)
    found = derived_splits(_captured(model))
    assert found.expert is not None
    assert found.expert.degrees == (2, 4)
    assert [item.path for item in found.expert.parameters] == [
        "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj",
    ]  # fmt: skip
    # 256 positions through 2 experts each, 64 bfloat16 numbers there and 64 back
    assert {item.size.per_example for item in found.expert.exchanges} == {256 * 2 * 2 * 64 * 2}


def test_nothing_to_split_without_blocks() -> None:
    model = nn.Linear(4, 4, device="meta")
    graph = capture(
        model, torch.optim.SGD(model.parameters()), lambda model, batch: model(batch).mean(),
        torch.zeros(2, 4, device="meta"),
    )  # fmt: skip
    assert derived_splits(graph) == Splits()
