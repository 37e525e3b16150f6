"""Decoders of `transformers`: one token after another."""

from collections.abc import Callable
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
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _decoder(model: Any, config: Any, **settings: Any) -> Callable[[], tuple[nn.Module, Loss, Any]]:
    """Builds a model of a class from a configuration of a class."""

    def build() -> tuple[nn.Module, Loss, Any]:
        return model(config(**{**_SIZES, **settings})), loss_of_output, language()

    return build


def _entry(name: str, model: Any, config: Any, **settings: Any) -> ZooModel:
    return ZooModel(name=name, family="decoder", build=_decoder(model, config, **settings))


DECODERS = (
    _entry("gpt2", hf.GPT2LMHeadModel, hf.GPT2Config, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    _entry("llama", hf.LlamaForCausalLM, hf.LlamaConfig, num_key_value_heads=2),
    _entry("qwen2", hf.Qwen2ForCausalLM, hf.Qwen2Config, num_key_value_heads=2),
    _entry("qwen3", hf.Qwen3ForCausalLM, hf.Qwen3Config, num_key_value_heads=2, head_dim=8),
    _entry("mistral", hf.MistralForCausalLM, hf.MistralConfig, num_key_value_heads=2, sliding_window=8),
    _entry("phi", hf.PhiForCausalLM, hf.PhiConfig, partial_rotary_factor=0.5),
    _entry(
        "opt", hf.OPTForCausalLM, hf.OPTConfig,
        ffn_dim=64, word_embed_proj_dim=32, dropout=0.0, attention_dropout=0.0,
    ),
    _entry("gpt-neox", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, rotary_pct=0.5),
    _entry("bloom", hf.BloomForCausalLM, hf.BloomConfig, n_layer=2, n_head=4),
    _entry("falcon", hf.FalconForCausalLM, hf.FalconConfig, new_decoder_architecture=False, multi_query=True),
    _entry("gemma", hf.GemmaForCausalLM, hf.GemmaConfig, num_key_value_heads=2, head_dim=8),
    _entry("gemma2", hf.Gemma2ForCausalLM, hf.Gemma2Config, num_key_value_heads=2, head_dim=8, sliding_window=8),
    _entry("gpt-j", hf.GPTJForCausalLM, hf.GPTJConfig, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=32,
           resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    _entry("olmo2", hf.Olmo2ForCausalLM, hf.Olmo2Config, num_key_value_heads=2),
)  # fmt: skip
