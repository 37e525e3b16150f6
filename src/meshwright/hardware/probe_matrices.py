"""How fast matrices are multiplied, by data type, size and library, and whether the products are right."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from meshwright.hardware._device import MatrixLibrary, MatrixRate
from meshwright.hardware.probe_timer import Timer
from meshwright.units import MIB, Bytes, Seconds

SIZES = (64, 128, 256, 512, 1024)
CHECKED_ROWS = 64
LENGTHENED = 4  # positions of a timed product over its size; its features are half the size
CHUNKS = 16  # of the positions, as images of a convolution
BLOCK: Bytes = 64 * MIB
MOST_PARTS = 16  # small matrices stay in a cache in a step, too
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCase:
    """One product to time."""

    dtype: torch.dtype
    library: MatrixLibrary
    size: int


def matrix_rates(
    timer: Timer, cases: Iterable[MatrixCase], *, device: torch.device, threads: int, processes: int, most: Seconds
) -> list[MatrixRate]:
    """Rates of the cases that work here.

    Args:
        timer: measures.
        cases: smallest sizes of a data type first.
        device: where the matrices are.
        threads: what the rows say.
        processes: what the rows say.
        most: a size is left out when the rates of smaller ones say it would take longer (s).
    """
    rates: list[MatrixRate] = []
    for case in cases:
        smaller = [rate.rate for rate in rates if (rate.dtype, rate.library) == (_name(case.dtype), case.library)]
        if smaller and 2 * case.size**3 / max(smaller) > most:
            continue
        multiply = _product(case.library)
        try:
            left, right = (torch.randn(case.size, case.size, device=device).to(case.dtype) for _ in range(2))
            exact = is_exact(multiply(left, right), left, right)
            duration = _training_duration(timer, case, multiply, device)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError):
            continue  # no such kernel for this device: there is nothing to rate
        rates.append(
            MatrixRate(
                dtype=_name(case.dtype), threads=threads, processes=processes, library=case.library,
                size=case.size, rate=2 * case.size**3 / duration, exact=exact,
            )
        )  # fmt: skip
    return rates


def _training_duration(
    timer: Timer, case: MatrixCase, multiply: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> Seconds:
    """Mean time of the three products that a layer's training takes, each of `size`³ multiplications.

    Legend: T = examples' positions, F = features; T is 4 sizes and F half of one. Forward and the gradient of the input
    are `T F` times `F F` and timed once; the weight's gradient is `F T` times `T F`. Activations are read from a block
    that no cache holds, as in a step.
    """
    positions, features = LENGTHENED * case.size, case.size // 2
    count = max(1, min(BLOCK // (positions * features * case.dtype.itemsize), MOST_PARTS))
    parts = cycle(torch.randn(count, positions, features, device=device).to(case.dtype).unbind())
    weight = torch.randn(features, features, device=device).to(case.dtype)
    tall = _tall_product(case.library, multiply)
    forward = timer(lambda: multiply(next(parts), weight))
    gradient = timer(lambda: tall(next(parts), next(parts)))
    return (2 * forward + gradient) / 3


def processor_cases() -> Iterator[MatrixCase]:
    """What is timed on a processor: every data type, and the other library for float32."""
    for dtype in DTYPES:
        for size in SIZES:
            yield MatrixCase(dtype=dtype, library="default", size=size)
    for size in SIZES:
        yield MatrixCase(dtype=torch.float32, library="onednn", size=size)


def cases_of(rates: Iterable[MatrixRate]) -> list[MatrixCase]:
    """The cases that gave these rates, so that several processes time the same ones at the same time."""
    return [MatrixCase(dtype=getattr(torch, rate.dtype), library=rate.library, size=rate.size) for rate in rates]


def is_exact(product: Tensor, left: Tensor, right: Tensor) -> bool:
    r"""Whether a product is as close to float64's as its data type allows.

    Rounding errors of a sum of n products grow like $\sqrt{n}\,\epsilon$ when they are independent; four times that
    lets every honest kernel pass, and none that rounds its inputs to a shorter type. Some rows are enough, and the
    processor has float64 even where an accelerator does not.
    """
    reference = left[:CHECKED_ROWS].cpu().double() @ right.cpu().double()
    error = (product[:CHECKED_ROWS].cpu().double() - reference).norm() / reference.norm()
    return bool(error <= 4 * torch.finfo(product.dtype).eps * left.shape[1] ** 0.5)


def _product(library: MatrixLibrary) -> Callable[[Tensor, Tensor], Tensor]:
    if library == "default":
        return torch.mm
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda left, right: linear(left, right.t(), None, "none", [], "")


def _tall_product(
    library: MatrixLibrary, multiply: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A weight's gradient, (gradient of the output)ᵀ times input, as `numerics` hands it to the library."""
    if library == "default":
        return lambda gradient, value: multiply(gradient.t(), value)

    def as_convolution(gradient: Tensor, value: Tensor) -> Tensor:
        images = [
            part.view(CHUNKS, part.shape[0] // CHUNKS, 1, part.shape[1]).permute(0, 3, 1, 2)
            for part in (gradient, value)
        ]
        weight = value.new_empty((gradient.shape[1], value.shape[1], 1, 1))
        return torch.ops.aten.convolution_backward(
            *images, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        )[1]

    return as_convolution


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
