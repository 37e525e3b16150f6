"""A transformer by its dimensions: what planning needs where there is no script to capture."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformer:
    """A decoder of equal layers.

    Args:
        layers: number of blocks.
        hidden: width of the residual stream.
        heads: query heads of one layer.
        kv_heads: key and value heads.
        ffn: inner width of the feed-forward network (of one expert).
        vocab: tokens in the vocabulary.
        sequence: tokens in an example.
        gated: whether the feed-forward network has a gate (SwiGLU, GeGLU): three matrices instead of two.
        head_size: width of a head; 0: `hidden / heads`.
        tied: whether the output layer shares the embedding's matrix.
        learned_positions: whether positions have embeddings of their own.
        biases: whether linear layers have biases.
        experts: of a layer; 0: dense.
        active_experts: that one token goes through.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    sequence: int
    gated: bool = False
    head_size: int = 0
    tied: bool = False
    learned_positions: bool = False
    biases: bool = False
    experts: int = 0
    active_experts: int = 1

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_size or self.hidden // self.heads

    @property
    def attention_parameters(self) -> int:
        """Elements of a layer's query, key, value and output matrices."""
        return self.hidden * self.head_width * (2 * self.heads + 2 * self.kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Elements of one feed-forward network."""
        return self.hidden * self.ffn * (3 if self.gated else 2)

    @property
    def layer_parameters(self) -> int:
        """Elements of a layer: matrices, the router of experts, two norms."""
        router = self.hidden * self.experts
        biases = 3 * self.hidden + self.ffn + 2 * self.kv_heads * self.head_width if self.biases else 0
        norms = 4 * self.hidden if self.biases else 2 * self.hidden
        return self.attention_parameters + self.expert_parameters * max(1, self.experts) + router + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """Elements of the embedding of tokens, and of positions where they are learned."""
        return self.hidden * (self.vocab + (self.sequence if self.learned_positions else 0))

    @property
    def num_parameters(self) -> int:
        """Elements of the model; a tied output layer counts once."""
        head = 0 if self.tied else self.hidden * self.vocab
        return self.layers * self.layer_parameters + self.embedding_parameters + head + self.hidden

    @property
    def active_parameters(self) -> int:
        """Elements of the matrices that one token is multiplied by, the output layer included."""
        active = self.expert_parameters * (self.active_experts if self.experts else 1)
        return self.layers * (self.attention_parameters + active) + self.hidden * self.vocab
