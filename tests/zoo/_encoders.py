"""Encoders of `transformers`: all tokens at once."""

from typing import Any

import torch
import transformers as hf
from torch import nn

from zoo._zoo_model import EXAMPLES, VOCABULARY, Loss, ZooModel, language, loss_of_output, tokens

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "pad_token_id": 0,
}


def _masked(name: str, model: Any, config: Any, **settings: Any) -> ZooModel:
    """Predicts every token; the last ones of half of the examples are padding."""

    def build() -> tuple[nn.Module, Loss, Any]:
        mask = torch.ones(EXAMPLES, 16, dtype=torch.long)
        mask[::2, 12:] = 0
        return model(config(**{**_SIZES, **settings})), loss_of_output, language(attention_mask=mask)

    return ZooModel(name=name, family="encoder", build=build)


def _classifier(name: str, model: Any, config: Any, **settings: Any) -> ZooModel:
    """Predicts one of three classes."""

    def build() -> tuple[nn.Module, Loss, Any]:
        batch = hf.BatchEncoding({"input_ids": tokens(), "labels": torch.randint(3, (EXAMPLES,))})
        return model(config(**{**_SIZES, "num_labels": 3, **settings})), loss_of_output, batch

    return ZooModel(name=name, family="encoder", build=build)


ENCODERS = (
    _masked("bert", hf.BertForMaskedLM, hf.BertConfig),
    _classifier("roberta", hf.RobertaForSequenceClassification, hf.RobertaConfig),
    _classifier(
        "distilbert", hf.DistilBertForSequenceClassification, hf.DistilBertConfig,
        dim=32, hidden_dim=64, n_layers=2, n_heads=4, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    ),
    _masked("electra", hf.ElectraForMaskedLM, hf.ElectraConfig, embedding_size=16),
    _masked("albert", hf.AlbertForMaskedLM, hf.AlbertConfig, embedding_size=16, classifier_dropout_prob=0.0),
    _masked("deberta-v2", hf.DebertaV2ForMaskedLM, hf.DebertaV2Config,
            relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _classifier("modernbert", hf.ModernBertForSequenceClassification, hf.ModernBertConfig,
                local_attention=8, reference_compile=False, cls_token_id=1, sep_token_id=2, bos_token_id=1,
                eos_token_id=2, embedding_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0),
)  # fmt: skip
