"""Allocator, optimizer form, memory format, compilation, and all together: the same training, and all undone."""

import copy
import ctypes
import sys

import pytest
import torch
from torch import nn

from meshwright.cost import Kernels
from meshwright.numerics import (
    allocator_applied,
    compilation_applied,
    fused_supported,
    kernels_applied,
    memory_format_applied,
    optimizer_form_applied,
)
from meshwright.numerics._allocator import glibc

ALL = Kernels(
    matrix_library="onednn", optimizer="fused", allocator="retained", memory_format="channels_last", random="sfc64"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(288, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.randn(64, 3, 8, 8)), torch.randint(0, 10, (64,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def distance(model: nn.Module, other: nn.Module) -> float:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def test_all_kernels_train_alike_and_leave_nothing_behind():
    written, ours = network(), network()
    written_optimizer, optimizer = (torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (written, ours))
    objects = [id(parameter) for parameter in ours.parameters()]
    expected = train(written, written_optimizer)
    with kernels_applied(ALL, model=ours, optimizer=optimizer):
        assert ours[3].weight.is_contiguous(memory_format=torch.channels_last)
        assert train(ours, optimizer) == pytest.approx(expected, rel=1e-5)
    assert distance(ours, written) < 1e-5
    assert [id(parameter) for parameter in ours.parameters()] == objects
    assert ours[3].weight.is_contiguous()
    assert optimizer.param_groups[0]["fused"] is written_optimizer.param_groups[0]["fused"]
    # Both go on alike without the kernels: the optimizer's state was carried back too.
    assert train(ours, optimizer) == pytest.approx(train(written, written_optimizer), rel=1e-4)


def test_kernels_are_undone_after_a_failure():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="the script's own"), kernels_applied(ALL, model=model, optimizer=optimizer):
        raise ValueError("the script's own")
    assert not optimizer.param_groups[0]["fused"]
    assert model[3].weight.is_contiguous()


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad], ids=lambda kind: kind.__name__
)
def test_fused_update_continues_the_written_one(kind):
    written, ours = network(), network()
    # float64 keeps Adam's division by tiny second moments from blowing rounding up.
    written.double(), ours.double()
    optimizers = [kind(model.parameters(), lr=1e-2) for model in (written, ours)]
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in written.parameters()]
    for model in (written, ours):
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
    for optimizer in optimizers:
        optimizer.step()
    with optimizer_form_applied("fused", model=ours, optimizer=optimizers[1]):
        assert optimizers[1].param_groups[0]["fused"]
        optimizers[1].step()
    optimizers[0].step()
    assert distance(written, ours) < 1e-12


def test_no_fused_form_for_other_optimizers_or_sparse_gradients():
    model = network()
    assert fused_supported(model, torch.optim.AdamW(model.parameters()))
    assert not fused_supported(model, torch.optim.RMSprop(model.parameters()))
    assert not fused_supported(model, torch.optim.AdamW(model.parameters(), differentiable=True))
    embedding = nn.Embedding(10, 4, sparse=True)
    assert not fused_supported(embedding, torch.optim.SGD(embedding.parameters(), lr=0.1))

    class Own(torch.optim.AdamW):
        """A user's own update."""

    optimizer = Own(model.parameters())
    with optimizer_form_applied("fused", model=model, optimizer=optimizer):
        assert not optimizer.param_groups[0]["fused"]


def test_channels_last_keeps_the_state_dict_and_moves_the_optimizers_state():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, steps=1)
    before = copy.deepcopy(model.state_dict())
    with memory_format_applied("channels_last", model=model, optimizer=optimizer):
        weight = model[3].weight
        state = optimizer.state[weight]
        assert weight.stride() == state["exp_avg"].stride() == weight.grad.stride()
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[3].weight.stride() == before["3.weight"].stride()


def test_one_channel_images_give_channels_last_too():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    strides = model[0].weight.stride()
    image = torch.randn(4, 1, 8, 8)
    expected = model(image)
    with memory_format_applied("channels_last", model=model, optimizer=None):
        value = model(image)
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(value, expected, atol=1e-6)
    assert model[0].weight.stride() == strides


def test_layout_that_the_user_chose_stays():
    model = network().to(memory_format=torch.channels_last)
    with memory_format_applied("channels_last", model=model, optimizer=None):
        pass
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_retained_memory_is_given_back_at_the_end():
    library = glibc()
    if library is None:
        pytest.skip("the C library is not glibc")

    class Info(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t) for name in ("arena", "b", "c", "h", "mapped", "f", "g", "u", "free", "top")
        ]

    library.mallinfo2.restype = Info
    with allocator_applied("retained"):
        block = torch.empty(64 * 2**20)
        mapped = library.mallinfo2().mapped
        del block
        held = library.mallinfo2().top
    assert mapped < 256 * 2**20 <= held
    assert library.mallinfo2().top < 256 * 2**20


def test_compiled_blocks_share_code_and_are_undone(monkeypatch):
    calls = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: calls.append(self) or setattr(self, "_compiled_call_impl", self.forward)
    )
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    with kernels_applied(Kernels(compiled=True), model=model, blocks=("0", "1")):
        assert calls == [model[0], model[1]]
    assert model[0]._compiled_call_impl is None
    with kernels_applied(Kernels(compiled=True), model=model):
        assert calls[2:] == [model]


# torch's own imports of inductor warn of their deprecated parts.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_multiplies_with_onednn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))
    batch = torch.randn(512, 128)
    expected = model(batch)
    with kernels_applied(Kernels(compiled=True, matrix_library="onednn"), model=model):
        with compilation_applied([]):
            value = model(batch)
        value.square().mean().backward()
        with torch.profiler.profile() as record:
            model(batch)
    assert torch.allclose(value, expected, atol=1e-5)
    assert "mkldnn::_linear_pointwise" in {event.key for event in record.key_averages()}
