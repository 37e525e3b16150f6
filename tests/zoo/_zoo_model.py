"""One entry of the zoo."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Loss = Callable[[nn.Module, Any], Any]
EXAMPLES, LENGTH, VOCABULARY = 8, 16, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooModel:
    """A model, its loss and a batch.

    Args:
        name: unique.
        family: decoder, encoder, …
        build: makes the three; the random numbers are seeded.
        experts: whether it has layers of experts.
        captured: whether its step is one fixed graph.
        dtype: that it is compared in; in float32, rounding alone changes the gradients of some by a tenth.
    """

    name: str
    family: str
    build: Callable[[], tuple[nn.Module, Loss, Any]]
    experts: bool = False
    captured: bool = True
    dtype: torch.dtype = torch.float32

    def make(self) -> tuple[nn.Module, Loss, Any]:
        """The model in training mode, its loss and a batch of 8; the same at every call in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, loss, batch = self.build()
        return model.train(), loss, batch


def loss_of_output(model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss that a model of `transformers` computes itself."""
    return model(**batch).loss


def tokens(length: int = LENGTH) -> torch.Tensor:
    """Random tokens; 0 to 2 are left out, they mean something to many configurations."""
    return torch.randint(3, VOCABULARY, (EXAMPLES, length))


def language(length: int = LENGTH, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch for a language model."""
    ids = tokens(length)
    return {"input_ids": ids, "labels": ids.clone(), **more}
