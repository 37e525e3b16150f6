"""Who multiplies float32 matrices on a CPU: torch's own choice, or oneDNN.

torch hands float32 products to MKL, which runs at AVX2 speed on processors of other makers; oneDNN uses AVX-512
wherever there is one. Both compute in float32; only the order of the sums differs.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from meshwright.hardware import MatrixLibrary
from meshwright.numerics._override import cpu_kernels_replaced
from meshwright.numerics._usual_sizes import UsualSizes

# Measured on 1 and 2 threads of a Zen 5 over 150 shapes for each number of multiplications: entering oneDNN costs
# about 12 µs more than MKL, which products of 2²¹ multiplications win back (median 1.2 ×), those of 2²⁰ do not.
_SMALLEST_PRODUCT = 2**21
# Below this edge a product is bound by reading its operands, and MKL's vector kernels win (1 row: 3 ×).
_SMALLEST_EDGE = 8
# A weight's gradient sums over the examples; from so many on, the convolution's kernel wins: it copies nothing.
_TALL = 1024
_CHUNKS = 16

_inner_product = torch.ops.mkldnn._linear_pointwise.default
_convolution_backward = torch.ops.aten.convolution_backward.default


def matrix_library_applied(library: MatrixLibrary) -> AbstractContextManager[None]:
    """A context in which `library` multiplies large float32 matrices on the CPU, in every thread of the process.

    The products that torch's own library computes as fast or faster stay with it; so do other data types and devices.
    Forward, backward, and products inside compiled code are all covered.
    """
    if library == "default":
        return nullcontext()
    products = _Products()
    factories = {"mm": _mm, "mm.out": _mm_out, "addmm": _addmm, "addmm.out": _addmm_out, "bmm": _bmm}
    return cpu_kernels_replaced({name: partial(factory, products) for name, factory in factories.items()})


class _Products:
    """Products by oneDNN, in sizes that come back; what is left over is torch's own library's."""

    def __init__(self) -> None:
        self._sizes = UsualSizes()
        self._own = torch.library.get_kernel("aten::mm", "CPU")

    def product(self, keys: Any, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        """`left @ right + bias`."""
        rows, inner = left.shape
        part = self._sizes.part(rows, inner, right.shape[1])
        if part == (rows, inner):
            return _product(left, right, bias)
        if part is None:
            whole = self._own.call_boxed(keys, left, right)
            return whole if bias is None else whole.add_(bias)
        first, length = part
        if length < inner:
            rest = self._own.call_boxed(keys, left[:, length:], right[length:])
            return _product(left[:, :length], right[:length], bias).add_(rest)
        rest = self._own.call_boxed(keys, left[first:], right)
        return torch.cat((_product(left[:first], right, bias), rest if bias is None else rest.add_(bias)))


def _mm(products: _Products, original: Any) -> FunctionType:
    def mm(keys: Any, left: Tensor, right: Tensor) -> Tensor:
        if _pays(left, right):
            return products.product(keys, left, right, None)
        return original.call_boxed(keys, left, right)

    return mm


def _mm_out(products: _Products, original: Any) -> FunctionType:
    def mm_out(keys: Any, left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        if _pays(left, right) and out.shape == (left.shape[0], right.shape[1]) and out.dtype is torch.float32:
            return out.copy_(products.product(keys, left, right, None))
        return original.call_boxed(keys, left, right, out=out)

    return mm_out


def _addmm(products: _Products, original: Any) -> FunctionType:
    def addmm(keys: Any, bias: Tensor, left: Tensor, right: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        if _pays(left, right) and _is_bias(bias, right, beta, alpha):
            return products.product(keys, left, right, bias)
        return original.call_boxed(keys, bias, left, right, beta=beta, alpha=alpha)

    return addmm


def _addmm_out(products: _Products, original: Any) -> FunctionType:
    def addmm_out(
        keys: Any, bias: Tensor, left: Tensor, right: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor
    ) -> Tensor:
        if (
            _pays(left, right)
            and _is_bias(bias, right, beta, alpha)
            and out.shape == (left.shape[0], right.shape[1])
            and out.dtype is torch.float32
        ):
            return out.copy_(products.product(keys, left, right, bias))
        return original.call_boxed(keys, bias, left, right, beta=beta, alpha=alpha, out=out)

    return addmm_out


def _bmm(products: _Products, original: Any) -> FunctionType:
    def bmm(keys: Any, left: Tensor, right: Tensor) -> Tensor:
        if _pays_one_by_one(left, right):
            return torch.stack(
                [products.product(keys, *pair, None) for pair in zip(left.unbind(), right.unbind(), strict=True)]
            )
        return original.call_boxed(keys, left, right)

    return bmm


def _pays_one_by_one(left: Tensor, right: Tensor) -> bool:
    """Whether each matrix of a batch is large enough; all threads meet at each, where MKL shares out whole matrices."""
    if left.dim() != 3 or right.dim() != 3 or left.shape[0] != right.shape[0] or not left.shape[0]:
        return False
    num_multiplications = left.shape[1] * left.shape[2] * right.shape[2]
    return num_multiplications >= _SMALLEST_PRODUCT * torch.get_num_threads() and _pays(left[0], right[0])


def _pays(left: Tensor, right: Tensor) -> bool:
    if left.dtype is not torch.float32 or right.dtype is not torch.float32:
        return False
    if left.dim() != 2 or right.dim() != 2:
        return False  # torch's own kernel has the right message
    rows, inner = left.shape
    other, columns = right.shape
    return (
        rows * inner * columns >= _SMALLEST_PRODUCT and min(rows, inner, columns) >= _SMALLEST_EDGE and inner == other
    )


def _is_bias(bias: Tensor, right: Tensor, beta: Any, alpha: Any) -> bool:
    return (
        beta == 1 and alpha == 1 and bias.dim() == 1 and bias.shape[0] == right.shape[1] and bias.dtype is torch.float32
    )


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """`left @ right + bias` by the oneDNN primitive that copies least.

    oneDNN's inner product copies a left operand whose rows are not contiguous: for a weight's gradient, (gradient of
    the output)ᵀ @ input, that would be a transposition of an activation. It takes a right operand by rows or by
    columns; for one with gaps it falls back to a plain loop (0.09 GFLOP/s), so that one is copied here.
    """
    rows, inner = left.shape
    columns = right.shape[1]
    by_rows = right.stride() == (columns, 1)
    if not by_rows and right.stride() != (1, inner):
        right, by_rows = right.contiguous(), True
    if bias is not None or left.stride() != (1, rows):
        return _inner_product(left, right.t(), bias, "none", [], "")
    if by_rows and inner >= _TALL and inner % _CHUNKS == 0:
        return _tall_product(left, right)
    if columns < rows:
        return _inner_product(right.t(), left, None, "none", [], "").t().contiguous()
    return _inner_product(left, right.t(), None, "none", [], "")


def _tall_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` for a transposed left operand, as the weight gradient of a 1×1 convolution.

    With the examples as pixels and the channels last, both operands are in memory as that kernel wants them.
    """
    rows, inner = left.shape
    columns = right.shape[1]
    gradient = left.t().view(_CHUNKS, inner // _CHUNKS, 1, rows).permute(0, 3, 1, 2)
    image = right.view(_CHUNKS, inner // _CHUNKS, 1, columns).permute(0, 3, 1, 2)
    weight = right.new_empty((rows, columns, 1, 1))
    result = _convolution_backward(
        gradient, image, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    return result[1].reshape(rows, columns)
