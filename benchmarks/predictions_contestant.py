"""A script as a user writes it for one device: `predictions_contestant.py MODEL STEPS`; `predictions.py` runs it."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

import meshwright as mw
from models import Batch, CharacterGPT, next_token_loss

VOCABULARY, LENGTH, EXAMPLES = 512, 128, 16


def gpt() -> nn.Module:
    """A GPT of 3.7 million parameters, 8 blocks."""
    return CharacterGPT(vocabulary=VOCABULARY, time=LENGTH, width=192, heads=4, depth=8)


def mixture() -> nn.Module:
    """A mixture of 4 experts in each of 4 blocks, 2 for every token: 4.1 million parameters."""
    import transformers

    return transformers.OlmoeForCausalLM(
        transformers.OlmoeConfig(
            vocab_size=VOCABULARY, hidden_size=192, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, num_experts=4, num_experts_per_tok=2, max_position_embeddings=LENGTH,
            eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def labelled_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of `transformers`."""
    output: Any = model(input_ids=batch[0], labels=batch[0])
    return output.loss


def main() -> None:
    """Trains so many steps."""
    name, steps = sys.argv[1], int(sys.argv[2])
    torch.manual_seed(0)
    model, loss = (gpt(), next_token_loss) if name == "gpt" else (mixture(), labelled_loss)
    step = mw.parallel(model, torch.optim.AdamW(model.parameters(), lr=1e-4), loss)
    tokens_bt = torch.randint(0, VOCABULARY, (EXAMPLES, LENGTH + 1))
    batch = (tokens_bt[:, :-1].contiguous(), tokens_bt[:, 1:].contiguous())
    for _ in range(steps):
        step(batch)


main()
