"""Kinds and bytes of single operations, by hand; float32, 4 B each."""

from typing import Any

import pytest
import torch

from meshwright.graph.capture_operations import OperationCost, as_called, classify, cost

aten = torch.ops.aten
M = torch.zeros(8, 16)  # 512 B
ROW = torch.zeros(16)  # 64 B
INDEX = torch.zeros(5, dtype=torch.long)  # 40 B
TABLE = torch.zeros(1000, 16)


def priced(func: Any, *args: Any, **kwargs: Any) -> OperationCost:
    return cost(func, classify(func), args, kwargs, func(*args, **kwargs))


@pytest.mark.parametrize(
    ("func", "args", "read", "written"),
    [
        (aten.add.Tensor, (M, M), 1024, 512),
        (aten.add.Tensor, (M, ROW), 512 + 64, 512),
        (aten.add.Tensor, (M, ROW.expand(8, 16)), 512 + 64, 512),
        (aten.add_.Tensor, (M, M), 1024, 512),
        (aten.relu.default, (M,), 512, 512),
        (aten.copy_.default, (M, ROW.expand(8, 16)), 64, 512),
        (aten.fill_.Scalar, (M, 0.0), 0, 512),
        (aten.zeros_like.default, (M,), 0, 512),
        (aten.empty_like.default, (M,), 0, 0),
        (aten.view.default, (M, [128]), 0, 0),
        (aten.t.default, (M,), 0, 0),
        (aten.cat.default, ([M, M, M],), 1536, 1536),
        (aten.clone.default, (M.t(),), 512, 512),
        (aten.sum.dim_IntList, (M, [0]), 512, 64),
        (aten.embedding.default, (TABLE, INDEX), 40 + 320, 320),
        (aten.embedding_dense_backward.default, (torch.zeros(5, 16), INDEX, 1000, -1, False), 320 + 40, 64000),
        (aten.native_layer_norm.default, (M, [16], ROW, ROW, 1e-5), 512 + 128, 512 + 64),
        (aten.mm.default, (M, M.t()), 1024, 256),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_bytes(func: Any, args: tuple[Any, ...], read: int, written: int) -> None:
    found = priced(func, *args)
    assert (found.bytes_read, found.bytes_written) == (read, written)


@pytest.mark.parametrize(
    ("func", "kind"),
    [
        (aten.addmm.default, "matrix"),
        (aten.bmm.default, "matrix"),
        (aten.convolution_backward.default, "convolution"),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, "attention"),
        (aten._scaled_dot_product_efficient_attention_backward.default, "attention"),
        (aten.mkldnn_rnn_layer.default, "recurrent"),
        (aten._cudnn_rnn_backward.default, "recurrent"),
        (aten.native_layer_norm_backward.default, "normalization"),
        (aten._softmax.default, "normalization"),
        (aten.native_batch_norm.default, "normalization"),
        (aten.gelu.default, "transcendental"),
        (aten.tanh.default, "transcendental"),
        (aten.tanh_backward.default, "pointwise"),
        (aten.threshold_backward.default, "pointwise"),
        (aten.mul_.Tensor, "pointwise"),
        (aten.native_dropout.default, "random"),
        (aten.bernoulli_.float, "random"),
        (aten.sum.dim_IntList, "reduction"),
        (aten.mse_loss.default, "reduction"),
        (aten.max_pool2d_with_indices.default, "reduction"),
        (aten.nll_loss_forward.default, "indexing"),
        (aten.embedding_dense_backward.default, "indexing"),
        (aten.clone.default, "copy"),
        (aten._to_copy.default, "copy"),
        (aten.slice_backward.default, "copy"),
        (aten.zeros.default, "copy"),
        (aten.transpose.int, "view"),
        (aten._unsafe_view.default, "view"),
        (aten.empty_like.default, "other"),
    ],
    ids=str,
)
def test_kinds(func: Any, kind: str) -> None:
    assert classify(func).kind == kind


def test_matrix_shapes_and_flops() -> None:
    batched = priced(aten.baddbmm.default, torch.zeros(3, 8, 5), torch.zeros(3, 8, 16), torch.zeros(3, 16, 5))
    assert batched.matrix == (3, 8, 16, 5)
    assert batched.flops == 2 * 3 * 8 * 16 * 5
    assert priced(aten.mv.default, M, ROW).matrix == (1, 8, 16, 1)
    assert priced(aten.mv.default, M, ROW).flops == 2 * 8 * 16


def test_a_grouped_products_shape_is_one_groups() -> None:
    """Legend: 24 rows in 4 groups, 16 channels to 32; each way round the work is 2 · 24 · 16 · 32 FLOP."""
    rows, weight, back = torch.zeros(24, 16), torch.zeros(4, 16, 32), torch.zeros(24, 32)
    ends = torch.tensor([6, 12, 18, 24], dtype=torch.int32)
    grouped = aten._grouped_mm.default
    for args, shape in (
        ((rows, weight, ends), (4, 6, 16, 32)),
        ((rows.t(), back, ends), (4, 16, 6, 32)),
        ((weight.transpose(1, 2), rows.t(), ends), (4, 32, 16, 6)),
    ):
        found = cost(grouped, classify(grouped), args, {}, back)
        assert found.matrix == shape
        assert found.flops == 2 * 24 * 16 * 32
    assert cost(grouped, classify(grouped), (weight.transpose(1, 2), weight), {}, back).matrix == (4, 32, 16, 32)


def test_attention_flops_forward_and_backward() -> None:
    """Legend: 2 sequences, 4 heads, 6 queries and keys, 8 channels. Two products forwards, five backwards."""
    q = torch.randn(2, 4, 6, 8, requires_grad=True)
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    out, logsumexp = forward(q, q, q)
    once = 2 * 2 * 4 * 6 * 6 * 8
    assert cost(forward, classify(forward), (q, q, q, 0.0), {}, (out, logsumexp)).flops == 2 * once
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    arguments = (out.detach(), q.detach(), q.detach(), q.detach(), out.detach(), logsumexp.detach(), 0.0, False)
    assert priced(backward, *arguments).flops == 5 * once


def test_a_gelu_by_tanh_has_a_name_of_its_own() -> None:
    for func, name in ((aten.gelu.default, "aten.gelu"), (aten.gelu_backward.default, "aten.gelu_backward")):
        known = classify(func)
        assert as_called(known, {"approximate": "tanh"}).name == f"{name}_tanh"
        assert as_called(known, {}) == known
