"""What one worker computes of a step: its part of the captured program, for every shape of micro-batch that comes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from meshwright.cost import Strategy
from meshwright.errors import PlanError, from_json, to_json
from meshwright.exchange import make_transport
from meshwright.parallel._named import all_parameters
from meshwright.parallel._parallelized import Begin
from meshwright.parallel._pieces import Span
from meshwright.parallel.context import ContextAxis
from meshwright.parallel.expert import ExpertAxis, check_alone
from meshwright.parallel.hybrid._blocks import Blocks
from meshwright.parallel.hybrid._checks import check
from meshwright.parallel.hybrid._completion import completed, is_complete
from meshwright.parallel.hybrid._global_statistics import GlobalStatistics
from meshwright.parallel.hybrid._grid import Grid
from meshwright.parallel.hybrid._guard import Guard
from meshwright.parallel.hybrid._homes import Homes
from meshwright.parallel.hybrid._originals import Originals
from meshwright.parallel.hybrid._tensor_axis import TensorAxis
from meshwright.parallel.pipeline import Pipelined, Stage, Surroundings
from meshwright.parallel.program import Program, ProgramStore
from meshwright.parallel.program._program import tensors_of

Loss = Callable[[nn.Module, Any], Any]


class Portion:
    """One worker's part of forward, loss and backward.

    Args:
        model: the user's.
        optimizer: the user's.
        loss: the user's.
        strategy: how the model is split.
        grid: this worker's place.
        blocks: paths of the model's repeated blocks, whose parameters are gathered one by one where they are in shards.
        context: makes what surrounds a forward.

    Raises:
        PlanError: the strategy cannot be followed with this model or optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        loss: Loss,
        strategy: Strategy,
        *,
        grid: Grid,
        blocks: Sequence[str],
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        check(strategy, optimizer)
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._grid = grid
        self._context = context
        self._named = all_parameters(model, optimizer)
        self._positions = ContextAxis(strategy, group=grid.context)
        self._experts = ExpertAxis(model, optimizer, strategy, group=grid.expert)
        self._tensor: TensorAxis | None = None
        self._guard: Guard | None = None
        named = [*self._named, *model.named_buffers()]
        self._store = ProgramStore(model, loss, transformation=self._localized, named=named, group=grid.whole)
        self._originals = Originals(model)
        self._blocks = Blocks(model, strategy, blocks)
        self._statistics = _statistics(model, strategy, grid)
        self._homes = Homes()
        self._runners: dict[int, nn.Module] = {}
        self._pipelined: Pipelined | None = None

    @property
    def pipelined(self) -> Pipelined | None:
        """This worker's stages; None before the first batch, and without a pipeline."""
        return self._pipelined

    @property
    def has_loss(self) -> bool:
        """Whether the loss is computed here."""
        return self._pipelined is None or self._pipelined.has_loss

    @property
    def forwards_together(self) -> bool:
        """Whether other data ranks wait for this one in the forward."""
        return self._statistics is not None or self._grid.expert is not None

    @property
    def parameters(self) -> list[tuple[str, Tensor]]:
        """What this worker has a part of."""
        if self._pipelined is None:
            return self._named
        held = self._pipelined.holdings.parameters
        return [(name, tensor) for name, tensor in self._named if name in held]

    @property
    def experts(self) -> frozenset[str]:
        """Names of the parameters that other data ranks have other experts of."""
        return frozenset(self._experts.spans)

    @property
    def roots(self) -> list[tuple[GraphModule, tuple[str, ...]]]:
        """The modules that run, each with the names of its blocks."""
        return [(module, self._blocks.inside(module)) for module in self._homes.modules]

    def spans(self, name: str) -> tuple[Span, ...]:
        """Where this worker's part of a parameter or buffer lies, by its first name."""
        split = () if self._tensor is None else self._tensor.spans.get(name, ())
        return (*self._experts.spans.get(name, ()), *split)

    def prepare(self, batches: Sequence[Any]) -> None:
        """Makes what runs micro-batches of new shapes."""
        for batch in batches:
            if self._grid.pipeline is None:
                self._runner(batch)
            elif self._pipelined is None:
                self._pipelined = self._first(batch)
                self._forget_state_of_other_stages()
            else:
                self._pipelined.stages_of(batch)

    def count(self, is_counted: bool) -> None:
        """Whether the next micro-batches' examples belong to the batch whose statistics are taken."""
        if self._statistics is not None:
            self._statistics.is_counted = is_counted

    def compute(
        self,
        batches: Sequence[Any],
        *,
        micro_batch: Callable[[bool], AbstractContextManager[object]],
        begin: Begin,
        ended: Callable[[], object],
    ) -> None:
        """Forward and backward of all micro-batches."""
        if self._pipelined is not None:
            around = Surroundings(forward=self._context, backward=micro_batch, ended=ended)
            self._pipelined.compute(batches, begin, around)
            return
        last = len(batches) - 1
        for number, batch in enumerate(batches):
            with micro_batch(number == last):
                with self._context():
                    outputs = self._runner(batch)(*tensors_of(batch))
                begin(outputs[0] if len(outputs) == 1 else outputs, number).backward()
                ended()

    def outputs(self, batch: Any) -> Any:
        """The model's outputs for the inputs `(args, kwargs)`, whole on every worker of this worker's model."""
        runner, structure = self._runner(batch), self._program(batch).structure
        assert structure is not None, "captured without a loss"
        with self._context():
            return structure.filled(runner(*tensors_of(batch)))

    def drain(self, micro_batch: Callable[[bool], AbstractContextManager[object]]) -> None:
        """Backwards of micro-batches that a pipeline has under way, as many as in a step."""
        assert self._pipelined is not None
        self._pipelined.drain(Surroundings(forward=self._context, backward=micro_batch))

    def guard(self) -> Guard:
        """Refuses calls of the user's model from now on, but for the captures made here."""
        self._guard = Guard(self._model)
        return self._guard

    def sum_tied(self) -> None:
        """Sums the gradients of parameters that several stages use."""
        if self._pipelined is not None:
            self._pipelined.holdings.sum_tied()

    def has_buffer(self, name: str) -> bool:
        """Whether this worker has the newest value of a buffer."""
        return self._pipelined is None or self._pipelined.holdings.has(name)

    def follow(self, successors: Mapping[str, Tensor]) -> None:
        """Takes the shards that have taken the place of parameters; those are kept for their shapes only."""
        self._originals.hollow()
        if self._pipelined is not None:
            self._pipelined.holdings.follow(successors)

    def close(self) -> None:
        """Forgets the programs."""
        self._runners.clear()
        for axis in (self._positions, self._experts, self._tensor):
            if axis is not None:
                axis.close()
        if self._statistics is not None:
            self._statistics.close()
        if self._pipelined is not None:
            self._pipelined.close()

    def _first(self, batch: Any) -> Pipelined:
        """The pipeline of the first micro-batch; frees the parameters of other stages."""
        self._program(batch)
        assert self._strategy.pipeline is not None, "completed with the first program"
        return Pipelined(
            self._program,
            batch,
            model=self._model,
            pipeline=self._strategy.pipeline,
            group=self._grid.pipeline,
            optimizer=self._optimizer,
            prepare=self._prepared,
            backwards="whole" if self._strategy.sharding == "parameters" else "as_scheduled",
        )

    def _forget_state_of_other_stages(self) -> None:
        if self._optimizer is not None:
            held = {id(tensor) for _, tensor in self.parameters}
            for _, tensor in self._named:
                if id(tensor) not in held:
                    self._optimizer.state.pop(tensor, None)

    def _program(self, batch: Any) -> Program:
        lifted = nullcontext() if self._guard is None else self._guard.lifted()
        with self._originals.in_place(), lifted:
            return self._store.program(batch)

    def _localized(self, program: Program) -> Program:
        """This worker's part of a program; with the first one it is settled what that is."""
        if self._grid.expert is not None and self._grid.context is not None:
            check_alone(program)
        program = self._experts.localized(self._positions.localized(program))
        if self._tensor is None:
            if not is_complete(self._strategy):
                self._strategy = self._agreed(program)
            self._tensor = TensorAxis(self._model, self._optimizer, self._strategy, grid=self._grid)
        return self._tensor.localized(program)

    def _agreed(self, program: Program) -> Strategy:
        """What worker 0 finds best: shares differ, and with them what is best.

        Raises:
            PlanError: the program cannot be split so; on every worker.
        """
        message: list[Any] = [None, ""]
        if self._grid.rank == 0:
            try:
                message[0] = completed(self._strategy, program).strategy
            except PlanError as error:
                message[1] = to_json(error)
        whole = self._grid.whole
        dist.broadcast_object_list(message, src=dist.get_process_group_ranks(whole)[0], group=whole)
        if message[1]:
            raise from_json(message[1])
        return message[0]

    def _runner(self, batch: Any) -> nn.Module:
        program = self._program(batch)
        if id(program) not in self._runners:
            self._runners[id(program)] = self._made(0, program)
        return self._runners[id(program)]

    def _prepared(self, stage: Stage) -> Stage:
        return stage.run_by(self._made(stage.index, stage.program))

    def _made(self, number: int, program: Program) -> nn.Module:
        """What runs a program, or a stage of it with its number."""
        if self._statistics is not None:
            self._statistics.put_into(program.graph_module)
        graph_module = self._blocks.segmented(program)
        if self._strategy.sharding != "parameters":
            return graph_module
        return self._homes.runner(number, graph_module)


def _statistics(model: nn.Module, strategy: Strategy, grid: Grid) -> GlobalStatistics | None:
    """Where the model has batch normalization and others have other examples; the same on all workers."""
    has_any = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if grid.data is None or not has_any:
        return None
    device = next((tensor.device for tensor in model.parameters()), torch.device(strategy.workers[0].device))
    return GlobalStatistics(make_transport(strategy.exchange.transport, grid.data, device))
