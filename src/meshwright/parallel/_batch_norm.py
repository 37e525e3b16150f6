"""Batch normalization over the global batch: the same mean and variance as on one device, whatever the shares.

With N values of a channel over all workers, mean μ and biased variance σ² of all of them, x̂ = (x − μ)/√(σ² + ε):

    y      = γ x̂ + β
    ∂L/∂x  = γ/√(σ² + ε) · (g − (Σ g)/N − x̂ (Σ g x̂)/N),     g = ∂L/∂y

Both sums run over all workers (Ioffe and Szegedy 2015, section 3). One exchange forward, one backward.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from meshwright.exchange import Transport


class GlobalBatchNorm(TorchFunctionMode):
    """While active, training-mode `torch.nn.functional.batch_norm` takes its statistics from all workers.

    Modules are not touched: they keep their class, names and buffers, and update running statistics as always. Every
    worker has to run the same normalizations in the same order; one without examples runs them on empty batches.

    Args:
        transport: what carries the statistics; nothing else uses it at the same time.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    def close(self) -> None:
        """Closes the transport."""
        self._transport.close()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func is F.batch_norm:
            return normalized(self._transport, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def normalized(  # noqa: PLR0913, PLR0917 - the signature of torch.nn.functional.batch_norm
    transport: Transport,
    input: Tensor,  # noqa: A002 - torch's own names: callers use them as keywords
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    is_counted: bool = True,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the statistics of all workers, without this one's where it is not counted.

    Where it is not, no gradient may come back but zeros.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    statistics = _statistics(input.detach()[: len(input) * is_counted], transport)
    count = statistics.count
    _update_running(running_mean, statistics.mean, momentum)
    _update_running(running_var, statistics.variance * (count / (count - 1)), momentum)
    return _Normalize.apply(input, weight, bias, statistics, eps, transport, is_counted)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statistics:
    """Number of values per channel, and per channel their mean and biased variance, over all workers."""

    count: Tensor
    mean: Tensor
    variance: Tensor


@torch.no_grad()
def _update_running(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(value.to(running.dtype), momentum)


def _statistics(x: Tensor, transport: Transport) -> _Statistics:
    """Every worker's own, put together (Chan et al. 1979, equation 2.1).

    Each worker puts its own into a row of its own; summed with everybody's zeros, the table holds all rows.
    """
    channels = x.shape[1]
    dtype = torch.float64 if x.device.type in ("cpu", "cuda") else torch.float32
    table = torch.zeros(transport.size, 1 + 2 * channels, dtype=dtype, device=x.device)
    own_count = x.numel() // channels
    if own_count:
        mean, variance = torch.batch_norm_update_stats(_at_least_float32(x), None, None, 0.0)
        table[transport.rank, 0] = own_count
        table[transport.rank, 1 : 1 + channels] = mean
        table[transport.rank, 1 + channels :] = variance
    transport.all_reduce(table).wait()
    counts, means, variances = table[:, :1], table[:, 1 : 1 + channels], table[:, 1 + channels :]
    count = counts.sum()
    # a worker with several values knows that all together are enough, and need not wait for a GPU to say so
    if own_count < 2 and count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {int(count)} on all workers")
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    kept = torch.promote_types(x.dtype, torch.float32)
    return _Statistics(count=count.to(kept), mean=mean.to(kept), variance=variance.to(kept))


class _Normalize(torch.autograd.Function):
    """y = γ x̂ + β with given statistics; the gradient counts that they depend on x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: _Statistics,
        eps: float,
        transport: Transport,
        is_counted: bool,
    ) -> Tensor:
        ctx.is_counted = is_counted
        ctx.save_for_backward(x, weight)
        ctx.statistics, ctx.eps, ctx.transport = statistics, eps, transport
        return torch.native_batch_norm(x, weight, bias, statistics.mean, statistics.variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        mean, count = ctx.statistics.mean, ctx.statistics.count
        inverse_deviation = (ctx.statistics.variance + ctx.eps).rsqrt()
        total, correlation = _sums(gradients[0], x, mean, inverse_deviation)
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        input_gradient = None
        if needs_input:
            sums = torch.cat([total, correlation])
            ctx.transport.all_reduce(sums).wait()
            mean_total, mean_correlation = (sums / count).chunk(2)
            scale = inverse_deviation if weight is None else inverse_deviation * weight
            wide = _at_least_float32(x) - _per_channel(mean, x)
            wide.mul_(_per_channel(-scale * inverse_deviation * mean_correlation, x))
            wide.addcmul_(_at_least_float32(gradients[0]), _per_channel(scale, x))
            input_gradient = wide.sub_(_per_channel(scale * mean_total, x)).to(x.dtype)
            if not ctx.is_counted:
                input_gradient.zero_()
        weight_gradient = correlation if needs_weight else None
        bias_gradient = total if needs_bias else None
        return input_gradient, weight_gradient, bias_gradient, None, None, None, None


def _sums(gradient: Tensor, x: Tensor, mean: Tensor, inverse_deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g and Σ g x̂ of this worker, per channel."""
    if x.numel() == 0:
        return torch.zeros_like(mean), torch.zeros_like(mean)
    _, correlation, total = torch.ops.aten.native_batch_norm_backward(
        gradient, x, None, None, None, mean, inverse_deviation, True, 0.0, [False, True, True]
    )
    return total.to(mean.dtype), correlation.to(mean.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, in the shape that meets x."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
