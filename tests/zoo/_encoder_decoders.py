"""Encoder–decoders of `transformers`."""

from typing import Any

import transformers as hf
from torch import nn

from zoo._zoo_model import VOCABULARY, Loss, ZooModel, language, loss_of_output

_LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "d_model": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "max_position_embeddings": 32,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def _entry(name: str, model: Any, config: Any, settings: dict[str, Any], **more: Any) -> ZooModel:
    def build() -> tuple[nn.Module, Loss, Any]:
        return model(config(**settings, **more)), loss_of_output, language()

    return ZooModel(name=name, family="encoder–decoder", build=build)


ENCODER_DECODERS = (
    _entry("t5", hf.T5ForConditionalGeneration, hf.T5Config, _T5),
    _entry("flan-t5", hf.T5ForConditionalGeneration, hf.T5Config, _T5, feed_forward_proj="gated-gelu",
           tie_word_embeddings=False),
    _entry("bart", hf.BartForConditionalGeneration, hf.BartConfig, _LAYERS),
    _entry("pegasus", hf.PegasusForConditionalGeneration, hf.PegasusConfig, _LAYERS),
    _entry("m2m100", hf.M2M100ForConditionalGeneration, hf.M2M100Config, _LAYERS),
)  # fmt: skip
