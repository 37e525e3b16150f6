"""Parameters of which a worker holds its part: made local, and whole again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from meshwright.cost import Placement
from meshwright.parallel._pieces import Span
from meshwright.parallel.tensor._communicator import Communicator
from meshwright.parallel.tensor._conversions import moved
from meshwright.parallel.tensor._layout import REPLICATED, Split
from meshwright.parallel.tensor._parts import part_of


class Shards:
    """The split tensors of a model on one worker of an axis.

    Parameters stay the user's objects; what they hold becomes the worker's part. Names that are not split pass through
    unchanged everywhere. Whatever has a parameter's shape (gradients, optimizer state) is cut and put together alike.

    Args:
        tensors: parameters and buffers by their first names.
        placements: those that are split.
        communicator: of the axis.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], placements: Sequence[Placement], communicator: Communicator
    ) -> None:
        self._tensors = tensors
        self._splits = {one.parameter: Split(one.dim, one.groups) for one in placements}
        self._communicator = communicator

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters and buffers that are split."""
        return tuple(self._splits)

    def split(self) -> None:
        """Leaves each split tensor with the worker's part, in memory of its own; no loss of before may be alive."""
        for name in self._splits:
            tensor = self._tensors[name]
            tensor.data = self.part(name, tensor.data)
            if tensor.grad is not None:
                tensor.grad = None

    def split_state(self, optimizer: Optimizer | None) -> None:
        """Leaves of the optimizer's state what belongs to the worker's parts; called before `split`."""
        for name in self._splits:
            tensor = self._tensors[name]
            state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == tensor.shape:
                    state[key] = self.part(name, value)

    @property
    def spans(self) -> dict[str, tuple[Span, ...]]:
        """Where the worker's part of each split tensor lies in the whole."""
        return {
            name: (Span(dim=split.dim, groups=split.groups, index=self._communicator.coordinate),)
            for name, split in self._splits.items()
        }

    def join(self) -> None:
        """Makes every split tensor whole again, on every worker."""
        for name in self._splits:
            tensor = self._tensors[name]
            tensor.data = self.whole(name, tensor.data)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """The worker's part of something that has a parameter's full shape."""
        split = self._splits.get(name)
        if split is None or not whole.dim():
            return whole
        place = {"coordinate": self._communicator.coordinate, "degree": self._communicator.size}
        return part_of(whole, split, **place).clone(memory_format=torch.contiguous_format)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The full tensor from every worker's part; every worker calls it, for the same names in the same order."""
        split = self._splits.get(name)
        if split is None or not part.dim():
            return part
        with torch.no_grad():
            return moved(part, split, REPLICATED, self._communicator)

    @contextmanager
    def stretched(self) -> Iterator[None]:
        """Full shapes while a program is captured, without memory for them: the values mean nothing."""
        kept = {name: self._tensors[name].data for name in self._splits}
        try:
            for name, part in kept.items():
                split = self._splits[name]
                shape = list(part.shape)
                shape[split.dim] *= self._communicator.size
                self._tensors[name].data = part.new_zeros(1).expand(shape)
            yield
        finally:
            for name, part in kept.items():
                self._tensors[name].data = part
