"""Vision models of `transformers`: transformers, ConvNets, segmentation."""

from typing import Any

import torch
import transformers as hf
from torch import nn

from zoo._zoo_model import EXAMPLES, Loss, ZooModel, loss_of_output

_SIZE = 32
_VIT = {
    "image_size": _SIZE,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 5,
}


def _classifier(name: str, model: Any, config: Any, dtype: torch.dtype = torch.float32, **settings: Any) -> ZooModel:
    def build() -> tuple[nn.Module, Loss, Any]:
        batch = {"pixel_values": torch.randn(EXAMPLES, 3, _SIZE, _SIZE), "labels": torch.randint(5, (EXAMPLES,))}
        return model(config(**settings)), loss_of_output, batch

    return ZooModel(name=name, family="vision", build=build, dtype=dtype)


def _segformer() -> tuple[nn.Module, Loss, Any]:
    config = hf.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16,
        num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
        drop_path_rate=0.0, sr_ratios=[4, 2, 1, 1],
    )  # fmt: skip
    batch = {
        "pixel_values": torch.randn(EXAMPLES, 3, 64, 64),
        "labels": torch.randint(5, (EXAMPLES, 64, 64)),
    }
    return hf.SegformerForSemanticSegmentation(config), loss_of_output, batch


VISION = (
    _classifier("vit", hf.ViTForImageClassification, hf.ViTConfig, **_VIT),
    _classifier("deit", hf.DeiTForImageClassification, hf.DeiTConfig, **_VIT),
    _classifier("dinov2", hf.Dinov2ForImageClassification, hf.Dinov2Config, **_VIT, drop_path_rate=0.0),
    _classifier(
        "swin", hf.SwinForImageClassification, hf.SwinConfig,
        image_size=_SIZE, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0,
    ),
    _classifier(
        "convnext", hf.ConvNextForImageClassification, hf.ConvNextConfig,
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5, drop_path_rate=0.0, image_size=_SIZE,
    ),
    _classifier(
        "resnet", hf.ResNetForImageClassification, hf.ResNetConfig,
        embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], num_labels=5, layer_type="basic",
    ),
    _classifier(
        "mobilenet-v2", hf.MobileNetV2ForImageClassification, hf.MobileNetV2Config, torch.float64,
        depth_multiplier=0.25, image_size=_SIZE, num_labels=5, classifier_dropout_prob=0.0,
    ),
    ZooModel(name="segformer", family="vision", build=_segformer),
)  # fmt: skip
