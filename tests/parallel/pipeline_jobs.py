"""Pipelined steps beside the one-device step, run on every worker of a pool."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from pipeline_models import CASES, PipelineCase
from torch import Tensor, nn

from meshwright.cost import Pipeline, Schedule
from meshwright.parallel.pipeline import Pipelined
from meshwright.parallel.program import Program, Signature, capture_program, signature_of


class Programs:
    """A captured program for each kind of micro-batch."""

    def __init__(self, model: nn.Module, case: PipelineCase) -> None:
        self._model = model
        self._case = case
        self._found: dict[Signature, Program] = {}

    def __call__(self, batch: Any) -> Program:
        signature = signature_of(self._model, batch)
        if signature not in self._found:
            self._found[signature] = capture_program(self._model, self._case.loss, batch)
        return self._found[signature]


def model_of(case: PipelineCase) -> nn.Module:
    """The same one on every worker."""
    torch.manual_seed(0)
    return case.make().double()


def micro_batches(case: PipelineCase, sizes: Sequence[int], step: int) -> list[Any]:
    """Of a step."""
    generator = torch.Generator().manual_seed(step)
    return [case.batch(size, generator) for size in sizes]


class Losses:
    """What the engine does: contributions of micro-batches to the global mean."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self.total = 0.0
        self.weight = 0.0

    def begin(self, output: Any, number: int) -> Tensor:
        """What the backward starts from."""
        share = self._sizes[number] / sum(self._sizes)
        total, weight = output if isinstance(output, tuple) else (output * share, share)
        self.total += float(total.detach())
        self.weight += float(weight)
        return total


def worst(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> float:
    """The largest distance, relative to the norm of all; infinite where a gradient is missing on one side only."""
    assert found.keys() == expected.keys()
    if any((found[name] is None) != (expected[name] is None) for name in found):
        return float("inf")
    kept = [name for name in found if found[name] is not None]
    scale = float(nn.utils.get_total_norm([expected[name] for name in kept]))
    return max(float((found[name] - expected[name]).abs().max()) for name in kept) / scale


def one_device(model: nn.Module, case: PipelineCase, batches: Sequence[Any], sizes: Sequence[int]) -> float:
    """Forward and backward of all micro-batches; the mean loss."""
    losses = Losses(sizes)
    for number, batch in enumerate(batches):
        losses.begin(case.loss(model, batch), number).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= losses.weight
    return losses.total / losses.weight


def pipelined_distances(
    name: str, cuts: Sequence[str], schedule: Schedule, sizes: Sequence[int], steps: int = 2
) -> dict[str, float]:
    """Trains both and measures the largest distances over all steps; `bytes` is what this worker's parameters take."""
    case = CASES[name]
    model, reference = model_of(case), model_of(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    one = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    job = Pipelined(
        Programs(model, case), micro_batches(case, sizes, 0)[0], model=model, optimizer=optimizer,
        pipeline=Pipeline(schedule=schedule, cuts=tuple(cuts)), group=dist.group.WORLD,
    )  # fmt: skip
    found = dict.fromkeys(("gradients", "parameters", "buffers", "loss"), 0.0)
    for step in range(steps):
        batches = micro_batches(case, sizes, step)
        expected = one_device(reference, case, batches, sizes)
        losses = Losses(sizes)
        job.compute(batches, losses.begin)
        job.holdings.sum_tied()
        sums = torch.tensor([losses.total, losses.weight], dtype=torch.float64)
        dist.all_reduce(sums)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= sums[1]
        gradients = {key: value.grad for key, value in reference.named_parameters() if value.requires_grad}
        found["gradients"] = max(found["gradients"], worst(job.holdings.full_gradients(), gradients))
        found["loss"] = max(found["loss"], abs(float(sums[0] / sums[1]) - expected))
        optimizer.step()
        one.step()
        optimizer.zero_grad()
        one.zero_grad()
        found["parameters"] = max(
            found["parameters"], worst(job.holdings.full_parameters(), dict(reference.named_parameters()))
        )
        buffers = {key: value.double() for key, value in reference.named_buffers()}
        if buffers:
            mine = {key: value.double() for key, value in job.holdings.full_buffers().items()}
            found["buffers"] = max(found["buffers"], worst(mine, buffers))
    found["bytes"] = sum(
        {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in model.parameters()}.values()
    )
    return found
