"""`mw.parallel(model)` alone: the user's own loop, with the model's forward and backward shared out between workers.

    model = mw.parallel(model)
    output = model(x)                    # each worker computes a share of the examples; all get the whole output
    criterion(output, y).backward()      # each worker sends back what belongs to its share; gradients are summed
    optimizer.step()

The loss is computed by every worker on the whole output, so that it need not be a mean. With output o = (o₁ … oₙ) of n
workers, ∂L/∂θ = Σ_k (∂L/∂o_k)(∂o_k/∂θ): worker k computes term k, and the sum is taken when its backward ends.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.errors import UsageError
from meshwright.exchange import GradientExchange, make_transport
from meshwright.graph.capture_batch import batch_size, mapped
from meshwright.run._batch import bounds, examples_of
from meshwright.run._randomness import RankStream
from meshwright.units import MIB

_BUCKET = 25 * MIB


class HandWritten:
    """Stands for a model in a loop that somebody wrote by hand; everything but its call is the model's own.

    Args:
        model: the user's, equal on all workers from now on.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._size = dist.get_world_size() if dist.is_initialized() else 1
        if self._size == 1:
            return
        # the names of `parallel` load much of torch, which one worker does not need
        from meshwright.parallel._agreement import agree
        from meshwright.parallel._batch_norm import GlobalBatchNorm
        from meshwright.parallel._named import trainable_parameters

        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        name = "nccl" if device.type == "cuda" else "gloo"
        self._transport = make_transport(name, None, device)
        agree(model, None, self._transport)
        self._exchange = GradientExchange(trainable_parameters(model, None), self._transport, bucket_size=_BUCKET)
        self._around: Any = nullcontext()
        # a worker without examples takes part in what is exchanged meanwhile; statistics count what it computes
        self._stand_in = slice(0, 1)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            self._around = GlobalBatchNorm(make_transport(name, None, device))
            self._stand_in = slice(0, 0)
        self._stream = RankStream(device, dist.get_rank())
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._is_armed = False
        if dist.get_rank() == 0:
            print(_cost(self._size), file=sys.stderr)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output of the whole batch.

        Raises:
            BatchError: the inputs have no common number of examples.
            UsageError: the output has another leading dim than the batch, such as a loss.
        """
        if self._size == 1 or not torch.is_grad_enabled():
            return self._model(*args, **kwargs)
        inputs = (args, kwargs)
        size = batch_size(inputs)
        ends = bounds(size, (1,) * self._size)
        start, end = ends[dist.get_rank()], ends[dist.get_rank() + 1]
        where = slice(start, end) if end > start else self._stand_in
        own_args, own_kwargs = examples_of(inputs, where, size)
        with self._stream, self._around:
            output = self._model(*own_args, **own_kwargs)
        share = _Share(start=start, count=end - start, computed=where.stop - where.start, size=size)
        return mapped(output, lambda leaf: self._gathered(leaf, share) if isinstance(leaf, Tensor) else leaf)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _gathered(self, own: Tensor, share: "_Share") -> Tensor:
        if own.dim() == 0 or len(own) != share.computed:
            raise UsageError(
                f"the model's output has shape {list(own.shape)} for {share.computed} examples",
                cause="outputs of all workers are put together along their leading dim, which has to count examples",
                alternatives=["mw.parallel(model, optimizer, loss): a loss of the model's own is understood there"],
            )
        return _Gather.apply(own[: share.count], share, self._backward_begins)  # type: ignore[return-value]

    def _backward_begins(self) -> None:
        """Sets gradients of earlier backwards aside: they are sums already."""
        if self._is_armed:
            return
        self._is_armed = True
        for tensor in self._model.parameters():
            if tensor.grad is not None:
                self._kept.append((tensor, tensor.grad.clone()))
                tensor.grad = None
        self._exchange.begin()
        torch.autograd.Variable._execution_engine.queue_callback(self._backward_ended)  # type: ignore[attr-defined]

    def _backward_ended(self) -> None:
        self._is_armed = False
        self._exchange.finish()
        for tensor, before in self._kept:
            tensor.grad = before if tensor.grad is None else tensor.grad + before
        self._kept = []


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """This worker's examples of a batch.

    Args:
        start: the first.
        count: how many.
        computed: how many the model was given: a worker without any may have a stand-in.
        size: of the whole batch.
    """

    start: int
    count: int
    computed: int
    size: int


class _Gather(torch.autograd.Function):
    """o = (o₁ … oₙ) on every worker; back comes ∂L/∂o_k."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: _Share, begins: Callable[[], None]) -> Tensor:
        ctx.place, ctx.begins = slice(share.start, share.start + share.count), begins
        whole = own.new_zeros(share.size, *own.shape[1:])
        whole[ctx.place] = own
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.begins()
        return gradients[0][ctx.place], None, None


def _cost(size: int) -> str:
    return (
        f"meshwright: a hand-written loop on {size} workers: each computes its share of the examples, outputs are "
        "gathered and every worker computes the loss; nothing is planned, accumulated, sharded or cut into stages. "
        "mw.parallel(model, optimizer, loss) does all of that"
    )
