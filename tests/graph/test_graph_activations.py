"""What a step keeps alive, against a real step whose storages are counted."""

import copy

import pytest
import torch
from captured_models import ALL, Job, gpt, mlp
from torch import Tensor, nn

from meshwright.graph import Linear
from meshwright.graph.capture import capture
from meshwright.graph.capture_copy import fake_batch, fake_mode, fake_model
from meshwright.graph.capture_recording import saved_storages
from meshwright.graph.capture_step import record_step


def saved_by_a_real_step(job: Job) -> int:
    """Bytes of all storages that real autograd saves, those of parameters, buffers and batch left out."""
    model = copy.deepcopy(job.model)
    inputs = job.batch if isinstance(job.batch, tuple) else (job.batch,)
    outside = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), *inputs)}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        job.loss(model, job.batch)
    return sum(storages.values())


@pytest.mark.parametrize("name", sorted(ALL))
def test_saved_activations_equal_those_of_a_real_step(name: str) -> None:
    job = ALL[name](8)
    graph = capture(job.model, torch.optim.SGD(job.model.parameters()), job.loss, job.batch)
    saved = sum(activation.size.at(8) * activation.repeats for activation in graph.activations)
    assert saved == saved_by_a_real_step(job)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_fake_step_equals_a_real_one_operation_by_operation(name: str) -> None:
    """Same operations, modules, costs, savings, transients and peak, with and without values."""
    job = ALL[name](8)
    mode = fake_mode()
    fake = record_step(fake_model(job.model, mode), job.loss, fake_batch(job.batch, mode), mode=mode)
    real = record_step(copy.deepcopy(job.model), job.loss, copy.deepcopy(job.batch))
    assert [(call.known, call.module, call.phase, call.cost) for call in fake.calls] == [
        (call.known, call.module, call.phase, call.cost) for call in real.calls
    ]
    assert saved_storages(fake) == saved_storages(real)
    assert (fake.peak, fake.transient) == (real.peak, real.transient)


def test_mlp_activations_by_hand() -> None:
    """The ReLU's output (32 floats per example) and log-softmax (4), and the loss's total weight (1 float)."""
    job = mlp()
    graph = capture(job.model, torch.optim.SGD(job.model.parameters()), job.loss, job.batch)
    assert [activation.size for activation in graph.activations] == [
        Linear(per_example=128), Linear(per_example=16), Linear(fixed=4)
    ]  # fmt: skip
    relu = graph.activations[0]
    assert (graph.operations[relu.created].name, graph.operations[relu.freed].name) == (
        "aten.relu", "aten.threshold_backward"
    )  # fmt: skip


def test_views_and_shared_storages_count_once() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 8)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.linear(x).exp().chunk(2, dim=1)
            return (left * right).sum(dim=1, keepdim=True) * left

    batch = mlp().batch
    graph = capture(Views(), torch.optim.SGD(Views().parameters()), mlp().loss, batch)
    views = [activation for activation in graph.activations if activation.size == Linear(per_example=32)]
    assert len(views) == 1


def test_peak_of_an_mlp_by_hand() -> None:
    """At the product for the second layer's input gradient, of B examples (float32, so 4 B each).

    Alive: the ReLU's output (32·B), the gradient of the logits (4·B), that of the ReLU's output (32·B), and what came
    before: nothing else of the size of the batch. Then the weights' gradients arrive: 128 + 4, and, when the first
    layer's arrive, the first product's gradient (32·B) is still there with 320 + 32.
    """
    job = mlp(1024)
    graph = capture(job.model, torch.optim.SGD(job.model.parameters()), job.loss, job.batch)
    relu_output, logits_gradient, hidden_gradient = 128 * 1024, 16 * 1024, 128 * 1024
    masked_gradient = 128 * 1024
    weights = 4 * (128 + 4)
    after_product = relu_output + logits_gradient + hidden_gradient
    at_mask = relu_output + hidden_gradient + masked_gradient + weights
    assert graph.peak.at(1024) >= max(after_product, at_mask)
    assert graph.peak.at(1024) <= at_mask + 2 * logits_gradient


def test_the_peak_is_at_most_the_sum_of_its_parts() -> None:
    for make in ALL.values():
        job = make(8)
        graph = capture(job.model, torch.optim.SGD(job.model.parameters()), job.loss, job.batch)
        activations = sum(activation.size.at(8) * activation.repeats for activation in graph.activations)
        gradients = sum(4 * torch.Size(p.shape).numel() * p.repeats for p in graph.parameters if p.trainable)
        assert max(activations, gradients) <= graph.peak.at(8) <= activations + gradients + graph.transient.at(8)


def test_lifetimes_lie_in_the_step() -> None:
    graph = capture(gpt().model, torch.optim.SGD(gpt().model.parameters()), gpt().loss, gpt().batch)
    phases = [operation.phase for operation in graph.operations]
    for activation in graph.activations:
        assert phases[activation.created] == "forward"
        assert phases[activation.freed] == "backward"


class Normed(nn.Module):
    """An RMS norm, dropout and a product, after another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)
        self.norm, self.drop = nn.RMSNorm(16), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.first(x))))


def test_a_norm_on_the_meta_device_keeps_what_an_accelerator_keeps() -> None:
    """In 2 bytes: input (32), two figures of a row (4), where accelerators have one of 4 bytes; dropout's mask (16).

    And what is multiplied (32). A processor composes the norm, and keeps its input and result in 4 bytes besides.
    """
    found = {}
    for device in ("meta", "cpu"):
        model = Normed().to(device, torch.bfloat16)
        batch = torch.zeros(8, 16, device=device, dtype=torch.bfloat16)
        graph = capture(model, torch.optim.SGD(model.parameters()), lambda model, batch: model(batch).sum(), batch)
        found[device] = sum(activation.size.at(8) * activation.repeats for activation in graph.activations)
    assert found["meta"] == 8 * (32 + 4 + 16 + 32)
    assert found["cpu"] > 8 * (64 + 64)
