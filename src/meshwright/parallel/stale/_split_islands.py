"""Islands that hold one model in parts: each worker meets the others that hold the same parts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Action
from meshwright.errors import PlanError
from meshwright.parallel._parallelized import Begin, Held, SplitModel
from meshwright.parallel._pieces import local
from meshwright.parallel.stale._local_updates import LocalUpdates


class SplitIslands(LocalUpdates[SplitModel], SplitModel):
    """Exact steps of a split model inside an island; the outer optimizer's state lies where the parts do.

    Args:
        inner: what the workers of this island do in a step.
        island: who they are.
        updates: when and how islands meet.
        compression: of the messages between islands; None: float32.
        group: all workers; None: all there are.
    """

    _are_alike = False

    @property
    def counts(self) -> bool:
        """As inside: a loss is the island's."""
        return self._inner.counts

    @property
    def pipeline_stamps(self) -> list[tuple[Action, Any, Any]]:
        """As inside."""
        return self._inner.pipeline_stamps

    def whole_model(self) -> nn.Module:
        """A copy on whole tensors of what the islands agree on now."""
        self.settle()
        return self._inner.whole_model()

    def carried(self) -> Iterator[tuple[str, Tensor]]:
        """As of islands of whole models; before the first step, which splits the model, what a checkpoint had."""
        return super().carried() if self._are_alike else iter(self._remembered.items())

    def prepare(self, batches: Sequence[Any]) -> None:
        """As inside; the first call finds out whether all islands hold the model in the same parts."""
        self._inner.prepare(batches)
        if not self._are_alike:
            check_alike(self._trained(), self.island.bridge)
            self._are_alike = True

    def compute(
        self, batches: Sequence[Any], *, examples: Sequence[int], begin: Begin, ended: Callable[[], object]
    ) -> None:
        """As inside."""
        self._inner.compute(batches, examples=examples, begin=begin, ended=ended)


def check_alike(trained: Sequence[Held], bridge: dist.ProcessGroup) -> None:
    """Compares what a worker holds with what its counterparts on other islands do; all of them call it.

    Raises:
        PlanError: they hold other parts, which cannot be averaged place by place.
    """
    own = [(held.name, held.spans, _shape(held.parameter)) for held in trained]
    everyones: list[Any] = [None] * dist.get_world_size(bridge)
    dist.all_gather_object(everyones, own, group=bridge)
    for island, theirs in enumerate(everyones):
        odd = [ours[0] for ours, other in zip(own, theirs, strict=False) if ours != other]
        if theirs != own:
            raise PlanError(
                f"island {island} holds {odd[0] if odd else 'the model'} in other parts than this one",
                cause="islands meet place by place, so that all have to split the model alike",
                alternatives=["--set updates=every_step"],
                command="meshwright run SCRIPT",
            )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(local(tensor).shape)
