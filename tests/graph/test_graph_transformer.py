"""A transformer's parameters by its dimensions, against what its makers state."""

import pytest

from meshwright.graph import Transformer

LLAMA_70B = Transformer(
    layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672, vocab=128256, sequence=8192, gated=True
)  # fmt: skip
GPT_125M = Transformer(
    layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, vocab=50257, sequence=1024, tied=True,
    learned_positions=True, biases=True,
)  # fmt: skip
MIXTRAL = Transformer(
    layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=32000, sequence=4096, gated=True, experts=8,
    active_experts=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "stated"), [(LLAMA_70B, 70_553_706_496), (GPT_125M, 124_439_808), (MIXTRAL, 46_702_792_704)]
)
def test_parameters_are_those_stated(model: Transformer, stated: int) -> None:
    """Llama 3 70B and Mixtral 8x7B exactly; GPT-2 up to its last norm's bias."""
    assert abs(model.num_parameters - stated) <= model.hidden


def test_a_token_goes_through_its_experts_only() -> None:
    """Two of Mixtral's eight experts: 12.9 B parameters less the embedding."""
    assert MIXTRAL.active_parameters == pytest.approx(12.88e9 - 32000 * 4096, rel=0.01)
