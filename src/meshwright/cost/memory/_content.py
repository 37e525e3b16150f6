"""What a pipeline worker holds, counted before any framework's habits."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContent:
    """A worker's part of the model.

    Args:
        elements: of its parameters, after tensor, expert and pipeline splits.
        experts: those of them that are experts'.
        unit: of the largest unit that is gathered whole where parameters are kept in shards.
        saved: activations that one micro-batch leaves for its backward (B).
        under_way: micro-batches that have left theirs at the worst moment.
        again: activations of the largest layer, alive while its backward runs (B).
        logits: elements of the loss's input for one micro-batch; 0 but on the last stage.
        exchanged: a whole tensor between tensor-parallel regions (B); 0 without `tp`.
        exchanges: how many of them the forwards of all micro-batches under way make.
    """

    elements: float
    unit: float
    saved: float
    under_way: float
    again: float
    logits: float = 0.0
    exchanged: float = 0.0
    exchanges: float = 0.0
    experts: float = 0.0
