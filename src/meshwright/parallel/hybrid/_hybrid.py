"""A strategy over any axes: this worker's part of the captured step, and its gradients summed over the data axes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.cost import Action, Strategy
from meshwright.exchange import Transport
from meshwright.numerics import heap_for
from meshwright.parallel._named import all_parameters
from meshwright.parallel._parallelized import Begin, Held, SplitModel
from meshwright.parallel._pieces import Piece, everywhere, local
from meshwright.parallel.hybrid._data_axes import DataAxes, over_data_axes
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.hybrid._guard import Guard
from meshwright.parallel.hybrid._norm import WholeNorm
from meshwright.parallel.hybrid._portion import Loss, Portion
from meshwright.units import Seconds


class Hybrid(SplitModel):
    """Model, sequence or stages split over some axes; replicas or shards of what is left over the data axes.

    Args:
        model: the user's, equal on all workers.
        optimizer: the user's.
        loss: the user's.
        strategy: what to do.
        grid: this worker's place.
        transport: between all workers, for what concerns them all; nothing else uses it.
        blocks: paths of the model's repeated blocks.
        context: makes what surrounds a forward, such as autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        loss: Loss,
        strategy: Strategy,
        *,
        grid: Grid,
        transport: Transport,
        blocks: Sequence[str],
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._strategy = strategy
        self._grid = grid
        self._transport = transport
        self._named = all_parameters(model, optimizer)
        self._portion = Portion(model, optimizer, loss, strategy, grid=grid, blocks=blocks, context=context)
        self._data: DataAxes | None = None
        self._guard: Guard | None = None
        self._max_norm: float | None = None
        self._waited: Seconds = 0.0
        self._heap = heap_for(strategy.kernels.allocator, strategy.workers[0].device)

    @property
    def model(self) -> nn.Module:
        """The user's model; it holds this worker's part of the parameters, and cannot be called once steps have run."""
        return self._model

    @property
    def forwards_together(self) -> bool:
        """Where statistics or parameters are exchanged in the forward."""
        if self._strategy.pipeline is not None and self._strategy.pipeline.schedule == "asynchronous":
            # every step has as many micro-batches, so that it is known when those of another are done
            return True
        return self._portion.forwards_together or (self._data is not None and self._data.forwards_together)

    @property
    def communication_seconds(self) -> Seconds:
        """Time of the last step in `reduce`, `clip` and `update` (s); exchanges inside the program are not in it."""
        return self._waited + (self._data.communication_seconds if self._data is not None else 0.0)

    @property
    def counts(self) -> bool:
        """Whether this worker has the loss, and is the first of those that have it for its examples."""
        mesh, rank = self._grid.mesh, self._grid.rank
        first = mesh.coordinate(rank, "tp") == 0 and mesh.coordinate(rank, "cp") == 0
        return first and self._portion.has_loss

    @property
    def pipeline_stamps(self) -> list[tuple[Action, Any, Any]]:
        """What this worker did in the last step for its stages, with stamps at begin and end."""
        pipelined = self._portion.pipelined
        return pipelined.stamps if pipelined is not None else []

    def prepare(self, batches: Sequence[Any]) -> None:
        """Makes the programs; the first call splits the parameters and the optimizer's state."""
        self._portion.prepare(batches)
        if self._data is None:
            self._data = over_data_axes(
                self._model, self.optimizer, self._strategy, grid=self._grid, portion=self._portion
            )
            self._portion.follow({held.name: held.parameter for held in self._data.held()})
            self._norm = WholeNorm(self.held(), transport=self._transport, whole=self._grid.whole)
            self._guard = self._portion.guard()
            if self._heap is not None:
                self._heap.clear()

    def compute(
        self, batches: Sequence[Any], *, examples: Sequence[int], begin: Begin, ended: Callable[[], object]
    ) -> None:
        """Forward and backward of all micro-batches."""
        assert self._data is not None, "prepare comes first"
        self._portion.count(any(examples))
        self._portion.compute(batches, micro_batch=self._data.micro_batch, begin=begin, ended=ended)

    def outputs(self, batch: Any, *, examples: int) -> Any:
        """The model's outputs, for a loop that goes on from there; the loss that it was made with is `Forward`.

        Args:
            batch: `(args, kwargs)` of the model's call, this data rank's examples.
            examples: how many of them count; 0 for a stand-in that only joins the exchanges.
        """
        self.prepare([batch])
        self._portion.count(bool(examples))
        return self._portion.outputs(batch)

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Around the backward of what `outputs` gave."""
        assert self._data is not None, "prepare comes first"
        return self._data.micro_batch(last)

    def reduce(self, divisor: float) -> None:
        """Makes this worker's gradients sums over the data axes, and of tied parameters over the stages.

        In a pipeline that is not emptied these are the gradients that have become whole with this step.
        """
        pipelined = self._portion.pipelined
        self._sum_up(divisor if pipelined is None else pipelined.hand_over(divisor))

    def _sum_up(self, divisor: float) -> None:
        assert self._data is not None, "prepare comes first"
        # one that owns a gradient in a stage need not own it in another: sums of whole gradients come first there
        first = self._strategy.sharding == "gradients"
        if not first:
            self._data.reduce(divisor)
        started = time.perf_counter()
        self._portion.sum_tied()
        self._waited = time.perf_counter() - started
        if first:
            self._data.reduce(divisor)

    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients to a global norm over all axes; the norm before."""
        started = time.perf_counter()
        self._max_norm = max_norm
        norm = self._norm.clip(max_norm, device=self._named[0][1].device)
        self._waited += time.perf_counter() - started
        return norm

    def stepping(self) -> AbstractContextManager[object]:
        """The optimizer steps what this worker holds."""
        assert self._data is not None, "prepare comes first"
        return self._data.stepping()

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        if self._data is not None:
            self._data.zero_gradients()
        for _, tensor in self._named:
            tensor.grad = None
        if self._heap is not None and self._data is not None:
            self._heap.tend()

    def settle(self) -> None:
        """Does what a pipeline that is not emptied has under way, updates included; every worker calls it."""
        pipelined = self._portion.pipelined
        if pipelined is None or self._data is None or not pipelined.rounds:
            return
        for _ in range(pipelined.rounds):
            self._portion.drain(self._data.micro_batch)
            self._sum_up(pipelined.hand_over(None))
            if self._max_norm is not None:
                self.clip(self._max_norm)
            self.update()
            self.zero_gradients()
        pipelined.emptied()

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Inside of it every step is exact."""
        self.settle()
        pipelined = self._portion.pipelined
        assert pipelined is not None
        before = pipelined.schedule
        pipelined.follow_schedule("1f1b")
        try:
            yield
        finally:
            pipelined.follow_schedule(before)

    def draw_nearer(self) -> str:
        """Empties the pipeline after every step from now on; says so, or nothing where it does already."""
        pipelined = self._portion.pipelined
        if pipelined is None or pipelined.schedule != "asynchronous":
            return ""
        self.settle()
        pipelined.follow_schedule("1f1b")
        return "the pipeline is emptied after every step from now on"

    def averaged(self, value: float) -> float:
        """The same: every worker has the whole batch's."""
        return value

    def held(self) -> list[Held]:
        """This worker's part of what its stages have."""
        if self._data is None:
            return [Held(name=name, parameter=tensor) for name, tensor in self._named]
        return [replace(held, spans=(*self._portion.spans(held.name), *held.spans)) for held in self._data.held()]

    def held_state(self) -> list[Piece]:
        """This worker's part of the parameters, and the buffers that its program knows."""
        self.settle()
        held = {id(item.parameter): item for item in self.held()}
        buffers = {name for name, _ in self._model.named_buffers(remove_duplicate=False)}
        pieces = []
        for key, value in self._model.state_dict(keep_vars=True).items():
            if id(value) in held:
                item = held[id(value)]
                pieces.append(Piece(name=key, tensor=local(item.parameter.detach()), spans=item.spans))
            elif isinstance(value, Tensor) and key in buffers and self._portion.has_buffer(key):
                pieces.append(Piece(name=key, tensor=value.detach(), spans=self._portion.spans(key)))
        return pieces

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients, gathered, by name."""
        whole = everywhere(
            [
                Piece(name=held.name, tensor=local(held.parameter.grad), spans=held.spans)
                for held in self.held()
                if held.parameter.grad is not None
            ],
            self._grid.whole,
        )
        return {name: whole.get(name) for name, tensor in self._named if tensor.requires_grad}

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters, gathered, by name."""
        self.settle()
        pieces = [
            Piece(name=held.name, tensor=local(held.parameter.detach()), spans=held.spans) for held in self.held()
        ]
        whole = everywhere(pieces, self._grid.whole)
        return {name: whole[name] for name, _ in self._named}

    def full_state_dict(self) -> dict[str, Tensor]:
        """The model's `state_dict`, gathered."""
        whole = everywhere(self.held_state(), self._grid.whole)
        return {key: whole.get(key, value) for key, value in self._model.state_dict().items()}

    def whole_model(self) -> nn.Module:
        """A copy of the model on whole tensors; every worker calls it and gets one."""
        return self._model if self._guard is None else self._guard.whole(self.full_state_dict())

    def close(self) -> None:
        """Closes the connections; the parameters stay split, and the model cannot run any further."""
        self.zero_gradients()
        if self._data is not None:
            self._data.close()
        self._portion.close()
        if self._guard is not None:
            self._guard.close()
        self._transport.close()
        dist.barrier(group=self._grid.whole)
        self._grid.close()
