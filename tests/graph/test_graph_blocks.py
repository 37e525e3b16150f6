"""Repeated blocks: found, captured once, and worth exactly as much as if each had been captured by itself."""

import pytest
import torch
from captured_models import GPT, Job, both, cnn, gpt, language, totals
from torch import Tensor, nn

from meshwright.graph.capture_blocks import repeated_blocks


@pytest.mark.parametrize("layers", [2, 5])
def test_a_gpt_captured_once_per_block_equals_its_full_capture(layers: int) -> None:
    once, full = both(gpt(layers=layers))
    assert totals(once) == totals(full)
    assert [block.paths for block in once.blocks] == [tuple(f"layers.{number}" for number in range(layers))]
    assert once.blocks[0].input_size.at(8) == 8 * 16 * 32 * 4
    assert len(once.operations) < len(full.operations)
    assert full.blocks == ()


def test_residual_stages_with_dropout_and_batch_norm() -> None:
    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + nn.functional.dropout(self.body(x), 0.1))

    stages = [*(Residual(4) for _ in range(3)), nn.Conv2d(4, 8, 2, stride=2), *(Residual(8) for _ in range(2))]
    model = nn.Sequential(nn.Conv2d(1, 4, 1), *stages, nn.Flatten(), nn.Linear(8 * 16, 10))
    once, full = both(Job(model=model, loss=cnn().loss, batch=cnn().batch))
    assert totals(once) == totals(full)
    assert [block.paths for block in once.blocks] == [("1", "2", "3"), ("5", "6")]
    assert set(once.traits) == {"batch_norm", "convolution", "random"} == set(full.traits)


def test_a_layer_of_another_width_or_setting_stands_by_itself() -> None:
    model = GPT(layers=4)
    model.layers[1].attention.heads = 2
    model.layers[3].wide.requires_grad_(False)
    assert repeated_blocks(model) == (("layers.0", "layers.2"),)
    once, full = both(Job(model=model, loss=language, batch=gpt().batch))
    assert totals(once) == totals(full)


def test_blocks_that_get_inputs_of_other_shapes_are_captured_again() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = GPT(layers=4)

        def forward(self, tokens: Tensor) -> Tensor:
            inner = self.inner
            x = inner.tokens(tokens)
            for number, layer in enumerate(inner.layers):
                x = layer(x[:, :8].contiguous() if number == 2 else x)
            return inner.head(x)

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        return model(tokens).pow(2).mean()

    once, full = both(Job(model=Pyramid(), loss=loss, batch=gpt().batch[:, :16]))
    assert totals(once) == totals(full)
    assert [block.paths for block in once.blocks] == [
        ("inner.layers.0", "inner.layers.1"), ("inner.layers.2", "inner.layers.3")
    ]  # fmt: skip


class Leaving(nn.Module):
    """A block that leaves a value behind for the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 10)
        self.extra: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.extra = y.pow(2).mean()
        return y


def test_a_block_that_leaves_values_behind_is_never_replayed() -> None:
    model = nn.Sequential(*(Leaving() for _ in range(3)), nn.Linear(10, 4))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        main = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return main + sum(block.extra for block in model if isinstance(block, Leaving))

    once, full = both(Job(model=model, loss=loss, batch=(torch.randn(8, 10), torch.randint(0, 4, (8,)))))
    assert totals(once) == totals(full)
    assert once.blocks == ()
    assert all(block.extra == 0.0 for block in model if isinstance(block, Leaving))


def test_an_output_that_is_an_input_and_shared_inputs() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(10, 10)

        def forward(self, x: Tensor, scale: Tensor, *, cache: object) -> tuple[Tensor, Tensor, None]:
            assert cache is not None
            return torch.tanh(self.first(x)) * scale, scale, None

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Shared() for _ in range(3)])
            self.gate = nn.Linear(10, 10)
            self.head = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            scale, cache = torch.sigmoid(self.gate(x)), object()
            for block in self.blocks:
                x, scale, _ = block(x, scale, cache=cache)
            return self.head(x)

    batch = (torch.randn(8, 10), torch.randint(0, 4, (8,)))
    once, full = both(Job(model=Chain(), loss=cnn().loss, batch=batch))
    assert totals(once) == totals(full)
    assert [block.paths for block in once.blocks] == [("blocks.1", "blocks.2")]  # the first one's x has no gradient


def test_parameters_tied_between_blocks_stand_with_all_of_their_names() -> None:
    model = GPT(layers=3)
    model.layers[1].wide.weight = model.layers[0].wide.weight
    once, full = both(Job(model=model, loss=language, batch=gpt().batch))
    tied = {parameter.paths for parameter in once.parameters if len(parameter.paths) > 1}
    assert ("layers.0.wide.weight", "layers.1.wide.weight") in tied
    assert totals(once)["parameters"] == totals(full)["parameters"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_the_user_checkpoints(reentrant: bool) -> None:
    """Each layer's forward runs twice; the second time counts as backward."""

    class Checkpointed(GPT):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
            for layer in self.layers:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
            return self.head(self.norm(x))

    once, full = both(Job(model=Checkpointed(layers=3), loss=language, batch=gpt().batch))
    assert totals(once) == totals(full)
    assert once.gaps == ()
    plain, _ = both(gpt(layers=3))
    assert totals(once)["flops"] > totals(plain)["flops"]
    assert totals(once)["activations"] < totals(plain)["activations"]
