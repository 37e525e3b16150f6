"""oneDNN's products against float64: as exact as torch's own, whatever the layout, and gone after the context."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.profiler import profile

from meshwright.numerics import matrix_library_applied

SIZES = st.sampled_from([3, 8, 54, 128, 192, 1040])


def operand(rows: int, columns: int, layout: str) -> torch.Tensor:
    if layout == "transposed":
        return torch.randn(columns, rows).t()
    if layout == "sliced":
        return torch.randn(rows, columns + 5)[:, 2 : 2 + columns]
    if layout == "strided":
        return torch.randn(2 * rows, columns)[::2]
    return torch.randn(rows, columns)


def relative_distance(value: torch.Tensor, exact: torch.Tensor) -> float:
    return ((value.double() - exact).norm() / exact.norm()).item()


def names_of(function) -> set[str]:
    with profile() as record:
        function()
    return {event.key for event in record.key_averages()}


LAYOUT = st.sampled_from(["rows", "transposed", "sliced", "strided"])


@settings(max_examples=40, deadline=None)
@given(rows=SIZES, inner=SIZES, columns=SIZES, left=LAYOUT, right=LAYOUT, seed=st.integers(0, 2**31))
def test_products_are_float32_exact_for_every_shape_and_layout(rows, inner, columns, left, right, seed):
    torch.manual_seed(seed)
    a, b, bias = operand(rows, inner, left), operand(inner, columns, right), torch.randn(columns)
    with matrix_library_applied("onednn"):
        product, affine, written = torch.mm(a, b), torch.addmm(bias, a, b), torch.empty(rows, columns)
        torch.mm(a, b, out=written)
    exact = a.double() @ b.double()
    # Rounding errors of a sum of n terms grow like a random walk of n steps.
    tolerance = torch.finfo(torch.float32).eps * (4 + inner**0.5)
    assert product.is_contiguous()
    assert relative_distance(product, exact) < tolerance
    assert relative_distance(written, exact) < tolerance
    assert relative_distance(affine, exact + bias.double()) < tolerance


def test_large_products_go_to_onednn_and_small_ones_do_not():
    large, small = torch.randn(256, 256), torch.randn(16, 16)
    with matrix_library_applied("onednn"):
        assert "mkldnn::_linear_pointwise" in names_of(lambda: large @ large)
        assert "mkldnn::_linear_pointwise" not in names_of(lambda: small @ small)
        assert "mkldnn::_linear_pointwise" not in names_of(lambda: large.double() @ large.double())
    assert "mkldnn::_linear_pointwise" not in names_of(lambda: large @ large)


def test_tall_weight_gradients_go_to_the_convolution():
    gradient, image = torch.randn(2048, 64), torch.randn(2048, 96)
    with matrix_library_applied("onednn"):
        assert "aten::convolution_backward" in names_of(lambda: gradient.t() @ image)


@pytest.mark.parametrize(("edge", "routed"), [(64, False), (256, True)])
def test_batches_of_large_matrices_go_to_onednn_one_by_one(edge, routed):
    left, right = torch.randn(3, edge, 96), torch.randn(3, edge, 96).transpose(1, 2)
    with matrix_library_applied("onednn"):
        assert ("mkldnn::_linear_pointwise" in names_of(lambda: left @ right)) is routed
        product = left @ right
    assert relative_distance(product, left.double() @ right.double()) < 1e-6


def test_empty_batches_stay_with_torch():
    with matrix_library_applied("onednn"):
        assert torch.bmm(torch.empty(0, 256, 256), torch.empty(0, 256, 256)).shape == (0, 256, 256)


def test_scaled_addition_stays_with_torch_and_is_right():
    a, c = torch.randn(256, 256), torch.randn(256, 256)
    with matrix_library_applied("onednn"):
        value = torch.addmm(c, a, a, beta=0.5, alpha=2.0)
        out = torch.addmm(c, a, a, beta=0.5, alpha=2.0, out=torch.empty(256, 256))
    exact = 0.5 * c.double() + 2.0 * a.double() @ a.double()
    assert relative_distance(value, exact) < 1e-6
    assert relative_distance(out, exact) < 1e-6


def test_wrong_shapes_keep_torchs_message():
    with matrix_library_applied("onednn"), pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(torch.randn(512, 300), torch.randn(301, 512))


def test_default_changes_nothing():
    large = torch.randn(256, 256)
    with matrix_library_applied("default"):
        assert "mkldnn::_linear_pointwise" not in names_of(lambda: large @ large)


def gradients(model: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(batch).square().mean().backward()
    return [parameter.grad.double() for parameter in model.parameters()]


def test_gradients_agree_with_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 256), nn.GELU(), nn.Linear(256, 128))
    batch = torch.randn(16, 128, 96)
    exact = gradients(nn.Sequential(*model).double(), batch.double())
    model.float()
    with matrix_library_applied("onednn"):
        ours = gradients(model, batch)
    for value, true in zip(ours, exact, strict=True):
        assert relative_distance(value, true) < 2e-6


def test_fake_tensors_pass_without_computing():
    with matrix_library_applied("onednn"), FakeTensorMode():
        product = torch.empty(2**15, 2**15) @ torch.empty(2**15, 2**15)
    assert product.shape == (2**15, 2**15)


def test_autocast_computes_in_bfloat16_as_before():
    a = torch.randn(256, 256)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = a @ a
        with matrix_library_applied("onednn"):
            assert torch.equal(a @ a, expected)


def test_threads_multiply_at_once():
    a = torch.randn(4, 256, 256)
    results = [torch.empty(0)] * 4

    def work(index: int) -> None:
        for _ in range(20):
            results[index] = a[index] @ a[index]

    with matrix_library_applied("onednn"):
        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index in range(4):
        assert relative_distance(results[index], a[index].double() @ a[index].double()) < 1e-6


# torch's own forward derivatives warn of their deprecated parts.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vmap_and_forward_gradients_pass_through():
    a, weight = torch.randn(4, 128, 128), torch.randn(128, 256)
    with matrix_library_applied("onednn"):
        batched = torch.vmap(lambda x: x @ weight)(a)
        _, tangent = torch.func.jvp(lambda x: x @ weight, (a[0],), (a[1],))
    assert relative_distance(batched, a.double() @ weight.double()) < 1e-6
    assert relative_distance(tangent, a[1].double() @ weight.double()) < 1e-6


def test_contexts_nest_and_the_inner_end_leaves_the_outer():
    large = torch.randn(256, 256)
    exact = large.double() @ large.double()
    with matrix_library_applied("onednn"):
        with matrix_library_applied("onednn"):
            assert relative_distance(large @ large, exact) < 1e-6
            assert torch.equal(torch.ones(2, 2) @ torch.ones(2, 2), torch.full((2, 2), 2.0))
        assert "mkldnn::_linear_pointwise" in names_of(lambda: large @ large)
    assert "mkldnn::_linear_pointwise" not in names_of(lambda: large @ large)


def test_inference_mode_and_second_derivatives():
    weight = torch.randn(256, 256, requires_grad=True)
    batch = torch.randn(256, 256)
    with matrix_library_applied("onednn"):
        with torch.inference_mode():
            value = batch @ weight
        (first,) = torch.autograd.grad((batch @ weight).pow(3).mean(), weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().mean(), weight)
    assert relative_distance(value, batch.double() @ weight.detach().double()) < 1e-6
    exact = weight.detach().double().requires_grad_()
    (first,) = torch.autograd.grad((batch.double() @ exact).pow(3).mean(), exact, create_graph=True)
    (second_exact,) = torch.autograd.grad(first.square().mean(), exact)
    assert relative_distance(second, second_exact) < 2e-6
