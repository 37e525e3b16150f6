"""Mixtures of experts of `transformers`."""

from typing import Any

import transformers as hf
from torch import nn

from zoo._zoo_model import VOCABULARY, Loss, ZooModel, language, loss_of_output

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _entry(name: str, model: Any, config: Any, **settings: Any) -> ZooModel:
    def build() -> tuple[nn.Module, Loss, Any]:
        return model(config(**{**_SIZES, **settings})), loss_of_output, language()

    return ZooModel(name=name, family="mixture of experts", build=build, experts=True)


EXPERTS = (
    _entry("mixtral", hf.MixtralForCausalLM, hf.MixtralConfig, num_local_experts=4),
    _entry("qwen2-moe", hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig, num_experts=4, moe_intermediate_size=32,
           shared_expert_intermediate_size=32),
    _entry("qwen3-moe", hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, num_experts=4, moe_intermediate_size=32, head_dim=8),
    _entry("olmoe", hf.OlmoeForCausalLM, hf.OlmoeConfig, num_experts=4),
)  # fmt: skip
