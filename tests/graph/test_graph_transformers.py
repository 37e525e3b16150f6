"""Models of `transformers`, unmodified: captured whole, repeated blocks once, equal to their full captures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured_models import Job, both, totals
from torch import nn

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 90, (4, 12))
TEXT = {"input_ids": TOKENS, "labels": TOKENS}
IMAGES = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.tensor([0, 1, 1, 0])}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=90, n_positions=16, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=90, num_key_value_heads=2, **SMALL))


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=90, **SMALL))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL))


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[3, 3], layer_type="basic")
    return transformers.ResNetForImageClassification(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=90, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(vocab_size=90, num_key_value_heads=2, num_local_experts=4, **SMALL)
    return transformers.MixtralForCausalLM(config)


MODELS: list[tuple[Callable[[], nn.Module], dict[str, torch.Tensor], int]] = [
    (gpt2, TEXT, 1),
    (llama, TEXT, 1),
    (bert, {**TEXT, "attention_mask": torch.ones_like(TOKENS)}, 1),
    (vit, IMAGES, 1),
    (resnet, IMAGES, 2),
    (t5, TEXT, 2),
    (mixtral, TEXT, 1),
]


@pytest.mark.parametrize(("make", "batch", "groups"), MODELS, ids=[make.__name__ for make, *_ in MODELS])
def test_captured_whole_and_equal_to_the_full_capture(
    make: Callable[[], nn.Module], batch: dict[str, torch.Tensor], groups: int
) -> None:
    def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**batch).loss

    once, full = both(Job(model=make(), loss=loss, batch=batch))
    assert totals(once) == totals(full)
    assert once.gaps == ()
    assert len(once.blocks) == groups
    assert set(once.traits) == set(full.traits)
