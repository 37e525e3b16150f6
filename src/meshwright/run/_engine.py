"""One optimizer step of a job under a strategy: the same code in a run, in a trial and in a proof.

The gradient of the global mean loss is a sum over shares and micro-batches. A scalar loss is the mean of its
examples, so a part of n of N examples contributes loss · n / N. A loss `(total, weight)` contributes its total, and
the sum is divided by the weight of all parts of all workers once.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.cost import Batch, Strategy, TimeBreakdown
from meshwright.errors import LossError
from meshwright.graph.capture_batch import batch_size
from meshwright.run._balance import Balance
from meshwright.run._batch import Held, Part, Share, cut, is_empty, loaded, whole
from meshwright.run._circle import circle_of
from meshwright.run._clock import BACKWARD, BEGIN, COMMUNICATION, FORWARD, OPTIMIZER, OVERHEAD, Stamps, clock_for
from meshwright.run._job import Job
from meshwright.run._placement import SplitPlaced, emptied, place
from meshwright.run._randomness import RankStream
from meshwright.run._watch import check_finite, checked
from meshwright.run.guards import Check, Guard, Stepping, guard_of


class Engine:
    """Runs steps of a job.

    Args:
        job: model, optimizer and loss; all three are worked on in place.
        strategy: how; None leaves everything as the user set it.
        group: the strategy's workers; None: all there are.
        rank: of this worker within the strategy.
    """

    def __init__(
        self, job: Job, strategy: Strategy | None = None, *, group: dist.ProcessGroup | None = None, rank: int = 0
    ) -> None:
        self.job = job
        self.strategy = strategy
        self.num_workers = 1 if strategy is None else strategy.num_workers
        self.rank = rank
        first = next(job.model.parameters(), torch.zeros(()))
        self.device, self._dtype = first.device, first.dtype
        self.clock = clock_for(self.device)
        self.stamps = Stamps()
        self.steps = 0
        self.grad_norm: float | Tensor = 0.0
        self.group = group
        self._shares = Batch(size=0, shares=(1,)) if strategy is None else strategy.batch
        self._is_split = strategy is not None and strategy.mesh.splits_the_model
        # a program of no examples cannot be captured: one stands in there
        self._stand_in = slice(0, 0) if _has_batch_statistics(job.model) and not self._is_split else slice(0, 1)
        self._undo = ExitStack()
        self.data_rank = 0 if strategy is None else strategy.mesh.share(rank)
        self.placed, self._forward_context = place(job, strategy, group=group, undo=self._undo)
        self._circle = circle_of(self.placed, num_workers=self.num_workers, group=group)
        self._balance = (
            Balance(self._shares.shares, rank=self.data_rank)
            if self._shares.sharing == "adaptive" and not self.placed.forwards_together and self.device.type == "cpu"
            else None
        )
        self.told: list[str] = []
        self._guard = guard_of(job, self.placed, strategy, rank=rank)
        self.stream = RankStream(self.device, _stream(strategy, rank)) if self.num_workers > 1 else None
        self.placed.zero_gradients()

    @property
    def waits_for_nobody(self) -> bool:
        """Whether a step must not exchange anything with workers that may be slower."""
        updates = self.strategy.exchange.updates if self.strategy is not None else None
        return updates is not None and updates.kind != "local"

    def new_checks(self) -> list[Check]:
        """Comparisons of steps with exact ones since this was asked last."""
        return [] if self._guard is None else self._guard.new_checks()

    @property
    def times(self) -> TimeBreakdown:
        """Where the last step's time went."""
        return self.stamps.breakdown(self.clock)

    def begin(self) -> None:
        """A step begins now."""
        self.stamps = Stamps(marks=[(BEGIN, self.clock.stamp())])

    def step(self, batch: Any, *, size: int | None = None) -> Tensor:
        """Forward, backward and update of a global batch that this worker holds whole.

        Args:
            batch: the global batch.
            size: its number of examples, where it is known already.

        Returns:
            The global mean loss, detached; of the island's part of the batch where islands train apart.
        """
        self.begin()
        return self._finish(self.share(batch, size=size))

    def step_share(self, share: Any, *, count: int, size: int) -> Tensor:
        """The same for a share that this worker loaded alone.

        Args:
            share: its examples; any one where it has none.
            count: how many of them count.
            size: examples of the global batch.
        """
        self.begin()
        return self._finish(self._cut(loaded(share, count=count, size=size)))

    def share(self, batch: Any, *, size: int | None = None) -> Share:
        """This worker's share of a global batch."""
        if self.num_workers == 1 and self._shares.accumulation == 1:
            return Share(parts=(Part(batch=batch, examples=1),), size=1)
        return self._cut(whole(batch, size=size or batch_size(batch), plan=self._shares, rank=self.data_rank))

    def _cut(self, held: Held) -> Share:
        share = cut(held, self._shares, stand_in=self._stand_in)
        if self._circle.shares is None:
            return share
        return replace(share, size=self._circle.examples(held.size, self._shares.shares))

    def compute(self, share: Share) -> Tensor:
        """Forward and backward; leaves the gradient of the global mean loss in the parameters.

        Returns:
            The global mean loss, detached.
        """
        if self.stream is None:
            return self._compute(share)
        with self.stream:
            return self._compute(share)

    def update(self) -> None:
        """Clips and updates; forgets the gradients."""
        self._advance()
        self.steps += 1
        self.stamps.marks.append((OVERHEAD, self.clock.stamp()))

    def _advance(self) -> None:
        marks = self.stamps.marks
        if self.job.clip is not None:
            self.grad_norm = self.placed.clip(self.job.clip)
        self.placed.update()
        self.stamps.communication = self.placed.communication_seconds
        marks.append((OPTIMIZER, self.clock.stamp()))
        self.placed.zero_gradients()

    def close(self) -> None:
        """Undoes what can be undone, so that another engine can take the job's copy or the process."""
        self._undo.close()

    def _finish(self, share: Share) -> Tensor:
        return self._plain(share) if self._guard is None else self._guarded(self._guard, share)

    def _plain(self, share: Share) -> Tensor:
        loss = self.compute(share)
        if self.device.type == "cpu" and not math.isfinite(value := loss.item()):
            if is_empty(share.parts[0].batch):
                batch_size(share.parts[0].batch)
            check_finite(value, self.steps + 1)
        self.update()
        return loss

    def _compute(self, share: Share) -> Tensor:
        if self._is_split:
            return self._compute_split(share)
        marks, stamp = self.stamps.marks, self.clock.stamp
        marks.append((OVERHEAD, stamp()))
        parts = share.parts
        if not self.placed.forwards_together:
            parts = tuple(part for part in parts if part.examples)
        alone = self._circle.num_workers == 1
        balance = self._balance if not alone else None
        tally = _Tally(
            whole=alone and len(parts) == 1,
            group=self._circle.group,
            device=self.device,
            dtype=self._dtype,
            report=balance.report if balance is not None else (),
        )
        computed = stamp()
        for number, part in enumerate(parts, start=1):
            with self.placed.micro_batch(last=number == len(parts)):
                with self._forward_context():
                    output = self.job.loss(self.placed.model, part.batch)
                contribution = tally.add(output, part, share.size)
                if number == len(parts) and not alone:
                    tally.exchange()
                marks.append((FORWARD, stamp()))
                contribution.backward()
                marks.append((BACKWARD, stamp()))
        if not parts and not alone:
            tally.exchange()
        computed = stamp() - computed if balance is not None else 0.0
        loss, divisor = tally.result()
        if balance is not None:
            self._rebalance(balance, tally.reports, share, seconds=computed)
        self.placed.reduce(divisor)
        marks.append((OVERHEAD if alone else COMMUNICATION, stamp()))
        return loss

    def _guarded(self, guard: Guard, share: Share) -> Tensor:
        """A step that may be compared with exact ones."""

        def again(share: Share) -> None:
            self.compute(share)
            self._advance()

        how = Stepping(run=self._plain, again=again, loss=self._loss_now)
        loss, check = guard.step(self.steps + 1, share, how)
        if check is not None:
            self.told.append(check.sentence)
            self.stamps.marks.append((OVERHEAD, self.clock.stamp()))
        return loss

    def _loss_now(self, share: Share) -> float:
        """The mean loss of a share over those that agree in every step; what the share is computed with stays."""
        if self._is_split:
            with emptied(self.placed):
                value = self.compute(share)
            self.placed.zero_gradients()
            return float(value)
        tally = _Tally(whole=False, group=self._circle.group, device=self.device, dtype=self._dtype)
        for part in share.parts:
            if part.examples or self.placed.forwards_together:
                with self.placed.micro_batch(last=False), self._forward_context():
                    tally.add(self.job.loss(self.placed.model, part.batch), part, share.size)
        if self._circle.num_workers > 1:
            tally.exchange()
        return float(tally.result()[0])

    def _rebalance(self, balance: Balance, reports: list[float], share: Share, *, seconds: float) -> None:
        """Takes the last step's reports, and this step's time for the next one."""
        told = balance.note(reports, size=share.size)
        if told:
            self._shares = replace(self._shares, shares=balance.shares)
            self.told.append(told)
        balance.timed(seconds, sum(part.examples for part in share.parts))

    def _compute_split(self, share: Share) -> Tensor:
        """The same for a model of which this worker computes a part."""
        placed, marks, stamp = self.placed, self.stamps.marks, self.clock.stamp
        assert isinstance(placed, SplitPlaced)
        placed.prepare([part.batch for part in share.parts])
        marks.append((OVERHEAD, stamp()))
        parts = share.parts if placed.forwards_together else tuple(part for part in share.parts if part.examples)
        tally = _Tally(whole=False, group=self._circle.group, device=self.device, dtype=self._dtype)

        def begin(output: Any, number: int) -> Tensor:
            marks.append((FORWARD, stamp()))
            return tally.add(output, parts[number], share.size)

        placed.compute(
            [part.batch for part in parts],
            examples=[part.examples for part in parts],
            begin=begin,
            ended=lambda: marks.append((BACKWARD, stamp())),
        )
        self.stamps.pieces = [
            (FORWARD if action.work == "forward" else BACKWARD, start, end)
            for action, start, end in placed.pipeline_stamps
        ]
        if not placed.counts:
            tally.forget()
        tally.exchange()
        loss, divisor = tally.result()
        placed.reduce(divisor)
        marks.append((COMMUNICATION, stamp()))
        return loss


class _Tally:
    """The global mean loss, summed up part by part and then over the workers while the backward runs.

    Args:
        whole: whether one part is the whole batch, so that its loss is the global one.
        group: the workers.
        device: where the sums are exchanged.
        dtype: of the loss of a worker that has no example.
        report: numbers of this worker to be summed over all, too.
    """

    def __init__(
        self,
        *,
        whole: bool,
        group: dist.ProcessGroup | None,
        device: torch.device,
        dtype: torch.dtype,
        report: Sequence[float] = (),
    ) -> None:
        self._dtype = dtype
        self._report = report
        self.reports: list[float] = []
        self._whole = whole
        self._group = group
        self._device = device
        self._totals: list[Tensor] = []
        self._weights: list[float | Tensor] = []
        self._sums: Tensor | None = None
        self._work: dist.Work | None = None

    def add(self, output: Any, part: Part, size: int) -> Tensor:
        """Takes what the loss function gave for a part; returns what its backward starts from."""
        if isinstance(output, tuple):
            total, weight = _pair(output)
            contribution = total / weight if self._whole else total if part.examples else total * 0.0
            self._weights.append(weight if part.examples else 0.0)
        else:
            loss = checked(output)
            contribution = loss if self._whole else loss * (part.examples / size)
        detached = contribution.detach()
        self._totals.append(detached if part.examples else torch.zeros_like(detached))
        return contribution

    def forget(self) -> None:
        """Counts nothing of what was added: another worker has the same."""
        self._totals.clear()
        self._weights.clear()

    def exchange(self) -> None:
        """Starts the sum over the workers."""
        self._sums = self._sum_up()
        self._work = dist.all_reduce(self._sums, group=self._group, async_op=True)

    def result(self) -> tuple[Tensor, float]:
        """The global mean loss, and what the summed gradients have to be divided by."""
        if self._whole:
            return self._totals[0], 1.0
        if self._work is not None:
            self._work.wait()
        sums = self._sum_up() if self._sums is None else self._sums
        dtype = self._totals[0].dtype if self._totals else self._dtype
        total, weight, num_weighted = sums[:3].unbind()
        if self._report:
            self.reports = sums[3:].tolist()
        is_weighted = bool(self._weights) if self._totals else bool(num_weighted)
        if not is_weighted:
            return total.to(dtype), 1.0
        return (total / weight).to(dtype), float(weight) or 1.0

    def _sum_up(self) -> Tensor:
        """Total, weight, and number of weighted parts; float64 where the device has it, to count tokens exactly."""
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        sums = torch.zeros(3 + len(self._report), dtype=dtype, device=self._device)
        for total in self._totals:
            sums[0] += total
        for weight in self._weights:
            sums[1] += weight
        sums[2] = len(self._weights)
        if self._report:
            sums[3:] = torch.tensor(self._report, dtype=dtype)
        return sums


def _stream(strategy: Strategy | None, rank: int) -> int:
    """Whose random numbers a worker draws: those along `cp` and `tp` the same, for what they compute alike."""
    return rank if strategy is None else strategy.mesh.peers(rank, "cp", "tp")[0]


def _pair(output: tuple[Any, ...]) -> tuple[Tensor, float | Tensor]:
    if len(output) != 2:
        raise LossError(
            f"the loss function returned {len(output)} values",
            cause="it has to return a scalar mean, or (total, weight)",
            alternatives=["return loss", "return (total, weight): the sum over the examples, and what to divide it by"],
        )
    total, weight = output
    return checked(total), weight.detach() if isinstance(weight, Tensor) else weight


def _has_batch_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
