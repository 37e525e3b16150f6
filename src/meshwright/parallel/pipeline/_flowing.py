"""A worker's stage of a pipeline that is not emptied between steps: what is under way, with what, and when it is whole.

The orders and how late gradients come are data of `cost` (`_flowing`).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from meshwright.cost import Action, delay, draining_orders, flowing_orders
from meshwright.parallel.pipeline._executor import Begin, Executor, Pending, Surroundings
from meshwright.parallel.pipeline._messages import Script, script_of
from meshwright.parallel.pipeline._stages import Stage
from meshwright.parallel.pipeline._versions import Versions

# Numbers of messages begin anew here; far fewer are under way at a time.
_MOST_NUMBERS = 2**20
Execute = Callable[[Script, Mapping[int, Sequence[Stage]], Sequence[Sequence[Tensor]], Pending], Executor]


class Flowing:
    """Steps that leave micro-batches under way.

    Args:
        rank: of this worker, and of its stage.
        num_stages: of the pipeline.
        num_micro_batches: of every step.
        parameters: that this worker has, by name; looked at anew in every step.
        execute: makes what runs a script.
    """

    def __init__(
        self,
        *,
        rank: int,
        num_stages: int,
        num_micro_batches: int,
        parameters: Callable[[], Mapping[str, Tensor]],
        execute: Execute,
    ) -> None:
        self._rank = rank
        self._num_stages = num_stages
        self._num = num_micro_batches
        self._parameters = parameters
        self._execute = execute
        self.delay = delay(rank, num_stages=num_stages, num_micro_batches=num_micro_batches)
        self._most = delay(0, num_stages=num_stages, num_micro_batches=num_micro_batches)
        self._versions = Versions()
        self._pending = Pending(forward=self._versions.forward) if self.delay else Pending()
        self._stages: dict[int, Sequence[Stage]] = {}
        # of the steps whose gradients are not whole: when they were run, and what to divide by
        self._begun: deque[int] = deque()
        self._divisors: deque[float] = deque()
        self._clock = self._oldest = self._end = self._number = 0

    @property
    def rounds(self) -> int:
        """Rounds that empty the pipeline; the same on every worker."""
        return self._most if self._oldest else 0

    def step(
        self,
        stages: Sequence[Sequence[Stage]],
        tensors: Sequence[Sequence[Tensor]],
        begin: Begin,
        around: Surroundings,
    ) -> None:
        """Forwards a step's micro-batches, and does as many backwards of those that are under way.

        Args:
            stages: of every micro-batch of the step.
            tensors: of every micro-batch of the step.
            begin: gives what a backward starts from.
            around: what surrounds pieces of the work.
        """
        assert len(stages) == self._num, (len(stages), self._num)
        self._stages |= dict(enumerate(stages))
        if self.delay:
            self._versions.take(self._parameters())
        self._run(flowing_orders(self._num_stages, self._num, oldest=self._oldest), tensors, begin, around)
        self._begun.append(self._clock)

    def drain(self, around: Surroundings) -> None:
        """One round: as many backwards without forwards."""
        orders = draining_orders(self._num_stages, self._num, oldest=self._oldest, end=self._end)
        self._run(orders, (), _nothing_begins, around)
        self._end -= self._num

    def hand_over(self, divisor: float | None) -> float:
        """Leaves the gradient that has become whole in the parameters, or none; gives what it has to be divided by.

        Args:
            divisor: of the gradient of the step that was just run; None after a round.
        """
        if divisor is not None:
            self._divisors.append(divisor)
        is_whole = bool(self._begun) and self._clock - self._begun[0] == self.delay
        if self.delay:
            for tensor in self._parameters().values():
                tensor.grad = None
        if not is_whole:
            return 1.0
        self._begun.popleft()
        if self.delay:
            self._versions.give(self._parameters())
        return self._divisors.popleft()

    def emptied(self) -> None:
        """All rounds are done."""
        assert not self._begun and not self._pending.flights and not self._pending.inbox  # noqa: PT018
        self._oldest = self._end = 0
        self._stages.clear()

    def _run(
        self,
        lists: Sequence[Sequence[Action]],
        tensors: Sequence[Sequence[Tensor]],
        begin: Begin,
        around: Surroundings,
    ) -> None:
        self._clock += 1
        script = script_of(self._rank, lists, self._stages, first_number=self._number)
        self._number = (self._number + script.num_messages) % _MOST_NUMBERS
        executor = self._execute(script, self._stages, tensors, self._pending)
        executor.run(begin, around)
        executor.expect(script.later)
        self._pending.renumber(self._num)
        self._oldest -= self._num
        kept = {number - self._num: some for number, some in self._stages.items()}
        self._stages = {number: some for number, some in kept.items() if number > -self._num_stages}


def _nothing_begins(output: object, number: int) -> Tensor:
    raise AssertionError((output, number))
