"""`capture`: costs against values worked out by hand, and everything of the user's left as it was."""

import copy
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captured_models import ALL, GPT, Job, gpt, language, mlp
from torch import Tensor, nn

from meshwright.graph import Graph, Linear, Operation
from meshwright.graph.capture import capture
from meshwright.graph.capture_accelerator import autocast_remembered


def captured(job: Job) -> Graph:
    return capture(job.model, torch.optim.AdamW(job.model.parameters()), job.loss, job.batch)


def named(graph: Graph, name: str, phase: str) -> list[Operation]:
    return [op for op in graph.operations if op.name == name and op.phase == phase]


def test_mlp_costs() -> None:
    """10 → 32 → 4 in float32, B examples.

    Forward products: 2·B·10·32 and 2·B·32·4 FLOP. The first reads B·10 inputs, 10·32 weights and 32 biases, and
    writes B·32. Backward: twice the second product (weights and inputs), once the first (inputs need no gradient).
    """
    graph = captured(mlp(8))
    first, second = named(graph, "aten.addmm", "forward")
    assert first.flops == Linear(per_example=640)
    assert second.flops == Linear(per_example=256)
    assert first.bytes_read == Linear(fixed=4 * (320 + 32), per_example=40)
    assert first.bytes_written == Linear(per_example=128)
    assert first.matrix is not None
    assert [first.matrix.rows.at(8), first.matrix.inner.at(8), first.matrix.columns.at(8)] == [8, 10, 32]
    assert [op.flops.at(8) for op in named(graph, "aten.mm", "backward")] == [8 * 256, 8 * 256, 8 * 640]
    assert [op.module for op in named(graph, "aten.mm", "backward")] == ["2", "2", "0"]
    assert graph.batch_bytes == Linear(per_example=48)
    assert sum(torch.Size(parameter.shape).numel() for parameter in graph.parameters) == 320 + 32 + 128 + 4


def test_convolution_costs() -> None:
    """3×3, 1 → 8 channels, 8×8 pixels, padded: 2·64·9·8 FLOP per example; reads 64 and writes 512 floats."""
    job = ALL["cnn"](8)
    graph = captured(job)
    first = named(graph, "aten.convolution", "forward")[0]
    assert first.kind == "convolution"
    assert first.flops == Linear(per_example=2 * 64 * 9 * 8)
    assert first.bytes_read == Linear(fixed=4 * (72 + 8), per_example=4 * 64)
    assert first.bytes_written == Linear(per_example=4 * 512)
    assert set(graph.traits) == {"batch_norm", "convolution"}


def test_attention_and_recurrent_costs() -> None:
    """Attention: 2 products of 2·B·4 heads·16·16·8 FLOP. LSTM layer: 2·B·12 steps·4·24·(16 + 24) FLOP."""
    attention = next(op for op in captured(gpt(8)).operations if op.kind == "attention" and op.phase == "forward")
    assert attention.flops == Linear(per_example=2 * 2 * 4 * 16 * 16 * 8)
    graph = captured(ALL["lstm"](8))
    first = next(op for op in graph.operations if op.kind == "recurrent" and op.phase == "forward")
    assert first.flops == Linear(per_example=2 * 12 * 4 * 24 * (16 + 24))
    assert graph.traits == ("recurrent",)


@pytest.mark.parametrize("name", sorted(ALL))
def test_flops_equal_those_that_torch_counts_on_real_tensors(name: str) -> None:
    """Matrix products, convolutions and attention together, against torch's counter over a real step."""
    job = ALL[name](6)
    graph = captured(job)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        job.loss(copy.deepcopy(job.model), job.batch).backward()
    not_counted = {"attention", "recurrent"}
    counted = sum(op.flops.at(6) * op.repeats for op in graph.operations if op.kind not in not_counted)
    assert counted == counter.get_total_flops()


@pytest.mark.parametrize("name", ["cnn", "gpt", "mlp"])
def test_quantities_for_another_batch_equal_its_own_capture(name: str) -> None:
    whole, small = captured(ALL[name](8)), captured(ALL[name](6))
    assert not whole.gaps
    for one, other in zip(whole.operations, small.operations, strict=True):
        assert (one.name, one.module, one.repeats) == (other.name, other.module, other.repeats)
        assert one.flops.at(6) == other.flops.at(6)
        assert one.bytes_read.at(6) + one.bytes_written.at(6) == other.bytes_read.at(6) + other.bytes_written.at(6)
    assert sum(a.size.at(6) for a in whole.activations) == sum(a.size.at(6) for a in small.activations)


def test_an_lstm_for_another_batch_is_near_its_own_capture() -> None:
    """FLOP are equal; oneDNN rounds each part of its workspace up to pages of 4 KiB, five parts in two layers."""
    whole, small = captured(ALL["lstm"](8)), captured(ALL["lstm"](6))
    assert [op.flops.at(6) for op in whole.operations] == pytest.approx([op.flops.at(6) for op in small.operations])
    sizes = [sum(activation.size.at(6) for activation in graph.activations) for graph in (whole, small)]
    assert sizes[0] == pytest.approx(sizes[1], abs=2 * 5 * 4096)


def test_everything_of_the_users_stays_as_it_was() -> None:
    job = gpt()
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=0.1)
    job.loss(job.model, job.batch).backward()
    before = copy.deepcopy((job.model.state_dict(), optimizer.state_dict(), job.batch))
    gradients = {name: parameter.grad for name, parameter in job.model.named_parameters()}
    attributes = [dict(vars(module)) for module in job.model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    capture(job.model, optimizer, job.loss, job.batch)
    torch.testing.assert_close((job.model.state_dict(), optimizer.state_dict(), job.batch), before, rtol=0, atol=0)
    assert all(parameter.grad is gradients[name] for name, parameter in job.model.named_parameters())
    assert [dict(vars(module)) for module in job.model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


def test_a_model_on_the_meta_device_is_captured_like_a_real_one() -> None:
    with torch.device("meta"):
        model = GPT()
        model.head.weight = model.tokens.weight
    real = gpt()
    graph = captured(Job(model=model, loss=language, batch=real.batch))
    assert graph == captured(real)


@pytest.mark.parametrize(
    ("autocast", "dtypes"),
    [
        (lambda: torch.autocast("cuda", torch.bfloat16), {"bfloat16"}),
        (lambda: torch.amp.autocast("cuda"), {"float16"}),
        (lambda: torch.autocast("cuda", torch.bfloat16, enabled=False), {"float32"}),
    ],
)
def test_an_accelerators_autocast_counts_for_a_model_on_the_meta_device(
    autocast: Callable[[], AbstractContextManager[None]], dtypes: set[str]
) -> None:
    """torch turns it off where there is no such device: products were captured in 32 bits."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with autocast():
            return F.cross_entropy(model(batch[0]), batch[1])

    with torch.device("meta"):
        model = nn.Linear(10, 4)
    graph = captured(Job(model=model, loss=loss, batch=mlp().batch))
    assert {item.dtype for item in graph.operations if item.kind == "matrix"} == dtypes


def test_an_autocast_that_was_made_beforehand_counts_where_it_was_asked_for() -> None:
    """As scripts keep one context for all steps; one that was not asked for stays off, and all are as before."""
    with autocast_remembered(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        contexts = {enabled: torch.autocast("cuda", torch.bfloat16, enabled=enabled) for enabled in (True, False)}
    with torch.device("meta"):
        model = nn.Linear(10, 4)
    for enabled, context in contexts.items():
        before = (context.device, context._enabled)

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor], context: Any = context) -> Tensor:
            with context:
                return F.cross_entropy(model(batch[0]), batch[1])

        graph = captured(Job(model=model, loss=loss, batch=mlp().batch))
        used = {item.dtype for item in graph.operations if item.kind == "matrix"}
        assert used == {"bfloat16" if enabled else "float32"}
        assert (context.device, context._enabled) == before


@pytest.mark.parametrize(("causal", "traits"), [((True, True), ("causal_attention",)), ((True, False), ())])
def test_attention_is_causal_where_all_is(causal: tuple[bool, ...], traits: tuple[str, ...]) -> None:
    class Attentions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x).view(-1, 1, 2, 2)
            for each in causal:
                y = F.scaled_dot_product_attention(y, y, y, is_causal=each)
            return y.flatten(1)

    assert captured(Job(model=Attentions(), loss=mlp().loss, batch=mlp().batch)).traits == traits


def test_traits() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(F.batch_norm(self.linear(x), None, None, training=True), 0.5)

    graph = captured(Job(model=Functional(), loss=mlp().loss, batch=mlp().batch))
    assert set(graph.traits) == {"batch_statistics", "random"}
    assert captured(gpt()).traits == ("causal_attention", "tied_parameters")
    tied = next(parameter for parameter in captured(gpt()).parameters if len(parameter.paths) > 1)
    assert tied.paths == ("tokens.weight", "head.weight")


def test_matrix_units_for_32_bits_are_a_trait_where_the_script_asks_for_them() -> None:
    job = mlp()
    assert "tf32" not in captured(job).traits
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert "tf32" in captured(job).traits
    finally:
        torch.set_float32_matmul_precision(before)


def test_instance_norm_and_frozen_batch_norm_do_not_couple_examples() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    model[2].eval()
    batch = (torch.randn(4, 1, 8, 8), torch.randint(0, 4, (4,)))
    assert captured(Job(model=model, loss=mlp().loss, batch=batch)).traits == ("convolution",)


def test_a_weighted_loss_is_recognized() -> None:
    def masked(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        mask = batch[1] > 0
        return (losses * mask).sum(), mask.sum()

    job = mlp()
    assert captured(Job(model=job.model, loss=masked, batch=job.batch)).traits == ("weighted_loss",)


@dataclass
class Pair:
    inputs: Tensor
    labels: Tensor


def test_batches_of_any_structure() -> None:
    job = mlp()
    x, y = job.batch
    plain = captured(job)
    as_dict = Job(model=job.model, loss=lambda m, b: job.loss(m, (b["x"], b["y"])), batch={"x": x, "y": y})
    as_data = Job(model=job.model, loss=lambda m, b: job.loss(m, (b.inputs, b.labels)), batch=Pair(x, y))
    assert captured(as_dict) == plain
    assert captured(as_data) == plain


def test_parametrizations_hooks_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(10, 32)), nn.ReLU(), nn.Linear(32, 4))
    model[2].bias.requires_grad_(False)
    seen = []
    model[1].register_forward_hook(lambda _module, _args, out: seen.append(tuple(out.shape)))
    graph = captured(Job(model=model, loss=mlp().loss, batch=mlp().batch))
    trainable = {parameter.paths[0]: parameter.trainable for parameter in graph.parameters}
    assert trainable["2.bias"] is False
    assert trainable["0.parametrizations.weight.original0"] is True
    assert seen == [(8, 32), (4, 32)]


def test_a_batch_of_one_and_a_model_for_one_batch_size() -> None:
    one = captured(mlp(1))
    assert one.batch_size == 1
    assert one.operations == captured(mlp(8)).operations

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(6, 10))

    graph = captured(Job(model=Fixed(), loss=mlp().loss, batch=mlp(6).batch))
    assert graph.gaps == ("the step runs with 6 examples only; no quantity is known for other sizes",)
    assert named(graph, "aten.addmm", "forward")[0].flops == Linear(fixed=2 * 6 * 10 * 4)


def test_growth_faster_than_the_batch_is_told() -> None:
    def contrastive(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        y = model(batch[0])
        return (y @ y.T).logsumexp(1).mean()

    graph = captured(Job(model=mlp().model, loss=contrastive, batch=mlp().batch))
    assert graph.gaps == (
        "grows faster than the number of examples: the loss; quantities are too low for more than 8 examples",
    )


def test_layers_dropped_at_random_are_dropped_alike_at_both_sizes() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(10, 10) for _ in range(20)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                if random.random() < 0.5 or np.random.rand() < 0.1:
                    x = layer(x)
            return x

    batch = (torch.randn(8, 10), torch.randint(0, 10, (8,)))
    assert captured(Job(model=Dropping(), loss=mlp().loss, batch=batch)).gaps == ()
