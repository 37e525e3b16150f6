"""What several workers do for a hand-written loop: a share of the forward, the sum of gradients, a common update."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Strategy
from meshwright.graph.capture_batch import batch_size, leaves, mapped
from meshwright.parallel import apply, local
from meshwright.parallel._named import all_parameters
from meshwright.parallel._part_gradient import GuardedGradients
from meshwright.parallel._subgroup import subgroup
from meshwright.parallel.hybrid import Hybrid
from meshwright.parallel.program import Forward
from meshwright.plan import Plan
from meshwright.run._agreement import check_agreement, is_checked
from meshwright.run._batch import bounds, examples_of
from meshwright.run._randomness import RankStream
from meshwright.run.loop._outputs import OutputShare, gathered
from meshwright.run.loop._own_optimizer import OwnOptimizers
from meshwright.run.loop._record import LoopRecord
from meshwright.units import Bytes, format_bytes, format_seconds


class LoopWorkers:
    """One worker's part; all workers make and call it alike.

    Args:
        model: the user's.
        strategy: without stages; its placements are found from the model's forward alone.
        blocks: names of the model's repeated blocks.
        record: times the steps.
        plan: whose predictions are shown; None where nothing was planned.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        *,
        blocks: Sequence[str],
        record: LoopRecord,
        plan: Plan | None = None,
    ) -> None:
        self._model, self._strategy, self._record, self._plan = model, strategy, record, plan
        originals = dict(all_parameters(model, None))
        first = next(iter(originals.values()), torch.zeros(()))
        self._dtype = first.dtype
        rank, mesh = dist.get_rank(), strategy.mesh
        self.placed = apply(model, None, strategy, loss=Forward(), graph_blocks=blocks)
        record.undo.callback(self.placed.close)
        self._stream = RankStream(first.device, mesh.peers(rank, "cp", "tp")[0])
        self._number = mesh.share(rank)
        self._is_whole = not mesh.splits_the_model and strategy.sharding != "parameters"
        self._group = _shares_group(strategy, rank, record.undo)
        has_statistics = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        # a program of no examples cannot be captured: one stands in there; statistics count what is computed
        self._stand_in = slice(0, 0) if has_statistics and not mesh.splits_the_model else slice(0, 1)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._is_armed = False
        self._calls = 0
        self._guarded = GuardedGradients(strategy)
        self._grad_norm: float | Tensor = 0.0
        self.optimizers = OwnOptimizers(
            originals, strategy, held=self.placed.held, stepping=self._stepping, stepped=self._stepped
        )
        record.undo.callback(self.optimizers.close)

    @property
    def is_cut(self) -> bool:
        """Whether this worker has parts of parameters by now."""
        return any(item.spans for item in self.placed.held())

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's outputs of the whole batch; without gradients, a whole model computes them by itself."""
        if not torch.is_grad_enabled() and self._is_whole:
            return self._model(*args, **kwargs)
        inputs = (args, kwargs)
        size = batch_size(inputs)
        share = OutputShare(
            ends=bounds(size, self._strategy.batch.shares),
            number=self._number,
            stand_in=self._stand_in,
            group=self._group,
        )
        self._calls += 1
        if is_checked(self._calls):
            check_agreement(inputs)
        with self._record.forward(size):
            own = inputs if share.is_whole else examples_of(inputs, share.computed, size)
            with self._stream:
                output = self._own_outputs(own, share.count)
            name = type(self._model).__name__
            whole = mapped(output, lambda leaf: self._whole(leaf, share, name) if isinstance(leaf, Tensor) else leaf)
        if self._calls == 1 and dist.get_rank() == 0:
            held = sum(local(item.parameter).nbytes for item in self.placed.held() if item.parameter.requires_grad)
            print(_cost(self._strategy, whole, held, self._plan), file=sys.stderr)
        return whole

    def clip(self, max_norm: float) -> Tensor:
        """Scales all gradients down to a global norm; the norm before."""
        with torch._C.DisableTorchFunctionSubclass():
            self._grad_norm = norm = self.placed.clip(max_norm)
        self._guarded.accept()
        return norm.to(self._dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's `state_dict`, whole."""
        return self.placed.full_state_dict()

    def _own_outputs(self, inputs: Any, examples: int) -> Any:
        """Of this data rank's examples."""
        if isinstance(self.placed, Hybrid):
            return self.placed.outputs(inputs, examples=examples)
        with self.placed.micro_batch(last=False):
            return self._model(*inputs[0], **inputs[1])

    def _whole(self, own: Tensor, share: OutputShare, model: str) -> Tensor:
        if own.requires_grad:
            # after the hooks of `fully_shard` on the same tensor, whose gradients are complete before this reads them
            own.register_hook(self._backward_begins)
        return gathered(own, share, model=model)

    def _backward_begins(self, gradient: Tensor) -> None:
        """Sets gradients of earlier backwards aside: they are sums already."""
        del gradient
        if self._is_armed:
            return
        self._is_armed = True
        self._record.backward_begins()
        for item in self.placed.held():
            if item.parameter.grad is not None:
                self._kept.append((item.parameter, item.parameter.grad.clone()))
                item.parameter.grad = None
        self.placed.micro_batch(last=True)
        torch.autograd.Variable._execution_engine.queue_callback(self._backward_ended)  # type: ignore[attr-defined]

    def _backward_ended(self) -> None:
        self._is_armed = False
        self.placed.reduce(1.0)
        for tensor, before in self._kept:
            tensor.grad = before if tensor.grad is None else tensor.grad + before
        self._kept = []
        self._guarded.watch(self.placed.held())
        self._record.backward_ended()

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """Around a step of the script's optimizer."""
        self._guarded.check()
        self._record.update_begins()
        with self.placed.stepping() if self._calls else nullcontext():
            yield

    def _stepped(self) -> None:
        self._record.stepped(communication=self.placed.communication_seconds, grad_norm=self._grad_norm)
        self._grad_norm = 0.0


def _shares_group(strategy: Strategy, rank: int, undo: ExitStack) -> dist.ProcessGroup | None:
    """This worker and those that have the other shares of the batch; None for all workers, or one."""
    peers = strategy.mesh.peers(rank, "dp_replicate", "dp_shard")
    message = [uuid4().hex]
    dist.broadcast_object_list(message, src=0)
    if len(peers) == strategy.num_workers:
        return None
    group = subgroup(peers, f"meshwright/{message[0]}/shares", dist.group.WORLD)  # type: ignore[arg-type]
    if group is not None:
        undo.callback(dist.destroy_process_group, group)
    return group


def _cost(strategy: Strategy, output: Any, parameters: Bytes, plan: Plan | None) -> str:
    """What is lost against a step that is handed over whole."""
    ranks = strategy.mesh.num_shares
    received = sum(leaf.nbytes for _, leaf in leaves(output) if isinstance(leaf, Tensor)) * (ranks - 1) // ranks
    predicted = "" if plan is None else (
        f" The plan predicts {format_seconds(plan.prediction.time.step)} a step, "
        f"{format_seconds(plan.prediction.time.communication)} of it exchanges, without these."
    )  # fmt: skip
    return (
        f"meshwright: a hand-written loop on {strategy.summary}. Every worker runs the script on the whole batch: each "
        f"receives {format_bytes(received)} of outputs per call and computes the loss of all of them, where one that "
        f"is handed over costs 24 B; {format_bytes(parameters)} of gradients are exchanged in every backward, also "
        "where the loop adds several up; there is no pipeline, no micro-batch, no compression, and no exchange beside "
        f"the update.{predicted} mw.parallel(model, optimizer, loss) does all of that"
    )
