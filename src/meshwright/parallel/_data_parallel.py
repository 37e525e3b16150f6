"""Every worker holds the whole model and computes its share of the batch; gradients are summed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.exchange import (
    Exactness,
    ExactReduction,
    GradientExchange,
    OwnedGradientExchange,
    Reduction,
    TensorBroadcast,
    Transport,
)
from meshwright.parallel._agreement import Buffers
from meshwright.parallel._batch_norm import GlobalBatchNorm
from meshwright.parallel._named import all_parameters, state_pieces
from meshwright.parallel._ownership import owners
from meshwright.parallel._parallelized import Held, Parallelized
from meshwright.parallel._pieces import Piece
from meshwright.parallel._recompute import Recomputation
from meshwright.units import Seconds


class DataParallel(Parallelized):
    """Plain data parallelism, and with the optimizer's state or the gradients too in shards (ZeRO stages 1 and 2).

    With shards each parameter has an owner, the only worker that steps it with the user's own optimizer: elsewhere its
    gradient is None during `step`, so no state is made there. Owners then give the new values to all. Right for every
    optimizer that updates each parameter by itself.

    Args:
        model: the user's, equal on all workers.
        optimizer: the user's.
        strategy: sharding and exchange.
        transport: what carries gradients and parameters.
        batch_norm: statistics over the global batch, where the model has any.
        recomputation: of the blocks that the strategy names.
        parameters: names and tensors of those that this worker has; None: all of the model and the optimizer.
        reduction: how gradients are summed; None: exactly.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        strategy: Strategy,
        *,
        transport: Transport,
        batch_norm: GlobalBatchNorm | None,
        recomputation: Recomputation,
        parameters: Sequence[tuple[str, Tensor]] | None = None,
        reduction: Reduction | None = None,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._strategy = strategy
        self._transport = transport
        self._reduction = ExactReduction(transport) if reduction is None else reduction
        self._batch_norm = batch_norm
        self._recomputation = recomputation
        self._named = all_parameters(model, optimizer) if parameters is None else list(parameters)
        self._buffers = Buffers(model, transport)
        # for good: a parameter that is thawed later must find its state where it was
        self._owner_of = dict(zip((name for name, _ in self._named), self._all_owners(), strict=True))
        self._forget_state_of_others()
        self._waited: Seconds = 0.0
        self._exactness = Exactness()
        self._prepare()

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self._model

    @property
    def forwards_together(self) -> bool:
        """True with batch normalization, whose statistics are exchanged."""
        return self._batch_norm is not None

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in `reduce`, `clip` and the exchange of parameters (s)."""
        return self._waited

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Sends gradients during the last backward of a step."""
        if last:
            self._exchange.begin()
        return self._batch_norm if self._batch_norm is not None else nullcontext()

    def reduce(self, divisor: float) -> None:
        """Makes every gradient the sum over workers and micro-batches, divided."""
        self._exchange.finish()
        self._waited = self._exchange.duration
        if [tensor.requires_grad for _, tensor in self._named] != self._requires_gradient:
            self._renew()
        if divisor != 1:
            self._exchange.divide(divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients to a global norm; the norm before."""
        gradients = [tensor.grad for _, tensor in self._trainable if tensor.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._strategy.sharding == "gradients":
            squares = norm.double().square().reshape(1).to(self._trainable[0][1].device)
            started = time.perf_counter()
            self._transport.all_reduce(squares).wait()
            self._waited += time.perf_counter() - started
            norm = squares.sqrt()[0]
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        if gradients:
            torch._foreach_mul_(gradients, scale.to(gradients[0].device))
        return norm

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer steps what is owned; then what changed is exchanged."""
        hand_out = None if self._exactness.holds else self._hand_out
        if hand_out is not None:
            hand_out.begin()
        with self._only_owned():
            yield
        started = time.perf_counter()
        if hand_out is not None:
            hand_out.run()
        elif self._parameters is not None:
            self._parameters.run()
        self._buffers.follow()
        self._waited += time.perf_counter() - started

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        self._exchange.forget()
        for _, tensor in self._named:
            tensor.grad = None

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients by name."""
        gradients = {name: None if tensor.grad is None else tensor.grad.clone() for name, tensor in self._trainable}
        if self._strategy.sharding != "gradients" or not self._trainable:
            return gradients
        present = torch.tensor([float(gradient is not None) for gradient in gradients.values()])
        present = present.to(self._trainable[0][1].device)
        self._transport.all_reduce(present).wait()
        for (name, tensor), count in zip(self._trainable, present.tolist(), strict=True):
            gradients[name] = None if count == 0 else gradients[name]
            if count > 0 and gradients[name] is None:
                gradients[name] = torch.zeros_like(tensor)
        whole = [gradient for gradient in gradients.values() if gradient is not None]
        roots = [
            owner for owner, gradient in zip(self._owners, gradients.values(), strict=True) if gradient is not None
        ]
        broadcast = TensorBroadcast(whole, roots, self._transport)
        broadcast.run()
        broadcast.close()
        return gradients

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {name: tensor.detach().clone() for name, tensor in self._named}

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of the model's `state_dict`."""
        return {
            key: value.detach().clone() if isinstance(value, Tensor) else value
            for key, value in self._model.state_dict().items()
        }

    def held(self) -> list[Held]:
        """All parameters."""
        everywhere = self._strategy.sharding != "gradients"
        return [
            Held(
                name=name,
                parameter=tensor,
                keeps_gradient=everywhere or self._owner_of[name] == self._transport.rank,
            )
            for name, tensor in self._named
        ]

    def held_state(self) -> list[Piece]:
        """The model's state."""
        return state_pieces(self._model)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Inside of it gradients are summed exactly, and parameters handed out as they are."""
        with self._exactness.holding(), self._reduction.exactly():
            yield

    def refine(self) -> bool:
        """Sends more of the gradients from the next step on; False where it cannot."""
        return self._reduction.refine()

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """What the exchange has left out so far, summed over the workers; all of them ask for it."""
        yield from self._reduction.carried()
        if self._hand_out is not None:
            yield from self._hand_out.owed()

    def carry(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `carried` gave."""
        self._reduction.carry(state)
        if self._hand_out is not None:
            self._hand_out.owe(state)

    def close(self) -> None:
        """Takes hooks and wrappers off, frees the memory of the exchange, and closes the connections."""
        self._release()
        self._buffers.close()
        self._recomputation.close()
        self._reduction.close()
        self._transport.close()
        if self._batch_norm is not None:
            self._batch_norm.close()

    def _all_owners(self) -> list[int]:
        sizes = [tensor.nbytes * tensor.requires_grad for _, tensor in self._named]
        return owners(sizes, self._strategy.shards_among(self._transport.size))

    def _forget_state_of_others(self) -> None:
        """What the optimizer knew of parameters that other workers step from now on."""
        if self.optimizer is None or self._strategy.sharding == "none":
            return
        for name, tensor in self._named:
            if self._owner_of[name] != self._transport.rank:
                self.optimizer.state.pop(tensor, None)

    def _prepare(self) -> None:
        self._requires_gradient = [tensor.requires_grad for _, tensor in self._named]
        self._trainable = [(name, tensor) for name, tensor in self._named if tensor.requires_grad]
        tensors = [tensor for _, tensor in self._trainable]
        self._owners = [self._owner_of[name] for name, _ in self._trainable]
        exchange = self._strategy.exchange
        options = {"bucket_size": exchange.bucket_size, "overlap": exchange.overlap}
        self._exchange = (
            OwnedGradientExchange(self._trainable, self._owners, self._transport, **options, reduction=self._reduction)
            if self._strategy.sharding == "gradients"
            else GradientExchange(self._trainable, self._transport, **options, reduction=self._reduction)
        )
        self._parameters = (
            None if self._strategy.sharding == "none" else TensorBroadcast(tensors, self._owners, self._transport)
        )
        self._hand_out = (
            None if self._strategy.sharding == "none" else self._reduction.hand_out(self._trainable, self._owners)
        )

    def _renew(self) -> None:
        """Parameters were frozen or thawed since the last step: sums up what the exchange did not know of.

        The first step after that sends those gradients late; the next ones send them like all others.
        """
        pairs = zip(self._named, self._requires_gradient, strict=True)
        thawed = [(name, tensor) for (name, tensor), before in pairs if tensor.requires_grad and not before]
        late = GradientExchange(thawed, self._transport, bucket_size=self._strategy.exchange.bucket_size)
        late.finish()
        if self._strategy.sharding == "gradients":
            for name, tensor in thawed:
                tensor.grad = tensor.grad if self._owner_of[name] == self._transport.rank else None
        kept = [(tensor, tensor.grad.clone()) for _, tensor in self._named if tensor.grad is not None]
        late.close()
        self._release()
        self._prepare()
        for tensor, gradient in kept:
            tensor.grad = gradient
        self._exchange.adopt()

    def _release(self) -> None:
        self._exchange.close()
        if self._parameters is not None:
            self._parameters.close()

    @contextmanager
    def _only_owned(self) -> Iterator[None]:
        """Hides the gradients of parameters that other workers step."""
        if self._strategy.sharding == "none":
            yield
            return
        hidden = [
            (tensor, tensor.grad)
            for (_, tensor), owner in zip(self._trainable, self._owners, strict=True)
            if owner != self._transport.rank
        ]
        for tensor, _ in hidden:
            tensor.grad = None
        try:
            yield
        finally:
            for tensor, gradient in hidden:
                tensor.grad = gradient
