"""Speech, multimodal and state-space models of `transformers`."""

from typing import Any

import torch
import transformers as hf
from torch import nn

from zoo._zoo_model import EXAMPLES, VOCABULARY, Loss, ZooModel, language, loss_of_output, tokens

_ATTENTION = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}


def _wav2vec2() -> tuple[nn.Module, Loss, Any]:
    config = hf.Wav2Vec2Config(
        **_ATTENTION, vocab_size=32, conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, apply_spec_augment=False,
        num_labels=5, classifier_proj_size=16, mask_time_prob=0.0,
    )  # fmt: skip
    batch = {"input_values": torch.randn(EXAMPLES, 400), "labels": torch.randint(5, (EXAMPLES,))}
    return hf.Wav2Vec2ForSequenceClassification(config), loss_of_output, batch


def _whisper() -> tuple[nn.Module, Loss, Any]:
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=16,
        max_target_positions=16, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    batch = {"input_features": torch.randn(EXAMPLES, 8, 32), "labels": tokens()}
    return hf.WhisperForConditionalGeneration(config), loss_of_output, batch


def _clip() -> tuple[nn.Module, Loss, Any]:
    config = hf.CLIPConfig(
        text_config={**_ATTENTION, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "eos_token_id": 2,
                     "bos_token_id": 1, "pad_token_id": 0},
        vision_config={**_ATTENTION, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    ids = tokens()
    ids[:, -1] = 2
    batch = {"input_ids": ids, "pixel_values": torch.randn(EXAMPLES, 3, 32, 32)}
    return hf.CLIPModel(config), _alignment, batch


def _alignment(model: nn.Module, batch: Any) -> torch.Tensor:
    """How far image and text of each example are apart: a mean over the examples, unlike the contrastive loss."""
    output = model(**batch)
    return (1 - (output.image_embeds * output.text_embeds).sum(-1)).mean()


def _llava() -> tuple[nn.Module, Loss, Any]:
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        vision_config=hf.CLIPVisionConfig(**_ATTENTION, image_size=32, patch_size=16),
        image_token_index=3, vision_feature_layer=-1, image_seq_length=4,
    )  # fmt: skip
    ids = torch.randint(4, VOCABULARY, (EXAMPLES, 16))
    ids[:, 2:6] = 3
    batch = {"input_ids": ids, "labels": ids.clone(), "pixel_values": torch.randn(EXAMPLES, 3, 32, 32)}
    return hf.LlavaForConditionalGeneration(config), loss_of_output, batch


def _mamba() -> tuple[nn.Module, Loss, Any]:
    config = hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, expand=2, conv_kernel=4,
        time_step_rank=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return hf.MambaForCausalLM(config), loss_of_output, language()


def _mamba2() -> tuple[nn.Module, Loss, Any]:
    config = hf.Mamba2Config(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, expand=2, conv_kernel=4, head_dim=16,
        num_heads=4, n_groups=2, chunk_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return hf.Mamba2ForCausalLM(config), loss_of_output, language()


OTHERS = (
    ZooModel(name="wav2vec2", family="speech", build=_wav2vec2),
    ZooModel(name="whisper", family="speech", build=_whisper),
    ZooModel(name="clip", family="multimodal", build=_clip),
    ZooModel(name="llava", family="multimodal", build=_llava),
    ZooModel(name="mamba", family="state space", build=_mamba),
    ZooModel(name="mamba2", family="state space", build=_mamba2),
)
