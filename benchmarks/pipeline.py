"""Pipelines: the measured bubble against the schedule's formula, and Meshwright against torch's own schedules by hand.

    python benchmarks/pipeline.py            # 2 workers, four schedules; about three minutes
    python benchmarks/pipeline.py --quick    # narrow blocks, few rounds
    python benchmarks/pipeline.py --json

A GPT of equal stages; both ways run on the same processes in turns, so that ratios are of one run. The bubble is the
share of the workers' time, from the first action of a step to its last, in which they compute nothing. Its formula has
no transfers and equal stages; how long a forward and the parts of a backward take is measured in the same steps, as the
median over all stages. Equal pieces of work do not take equally long twice, so that the same order of work is also
replayed with the time that every piece took, without transfers: what the bubble has beyond that is transfers and the
executor. Workers are pinned and keep freed memory, as those of a plan do.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble

import outcome
from meshwright.cost import Pipeline, Schedule, StageEvent, balanced_bubble, bubble, orders, replayed, simulated
from meshwright.cost._schedule import Work
from meshwright.numerics import allocator_applied
from meshwright.parallel.pipeline import Pipelined
from meshwright.parallel.program import capture_program

LAYERS, HEADS, VOCABULARY = 8, 4, 512
TORCHS: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
}


class Block(nn.Module):
    """A causal transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """A residual block."""
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)]
        x = x + self.out(F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


def model_of(width: int) -> nn.Sequential:
    """Blocks alone: every stage takes the same time."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width) for _ in range(LAYERS)))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """A mean, so cheap that the last stage is as long as the others."""
    return model(batch).square().mean()


Step = Callable[[Tensor], None]


def ours(width: int, schedule: Schedule, per_worker: int, parts: int, batch: Tensor) -> tuple[Step, Pipelined]:
    """The captured program in stages."""
    workers = dist.get_world_size()
    length = LAYERS // (workers * per_worker)
    cuts = tuple(str(first) for first in range(length, LAYERS, length))
    model = model_of(width)
    micro_batch = batch.chunk(parts)[0]
    program = capture_program(model, loss_of, micro_batch)
    pipeline = Pipeline(schedule=schedule, cuts=cuts)
    job = Pipelined(lambda _: program, micro_batch, model=model, pipeline=pipeline, group=dist.group.WORLD)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(whole: Tensor) -> None:
        job.compute(whole.chunk(parts), lambda loss, _: loss / parts)
        optimizer.step()
        optimizer.zero_grad()

    return step, job


def torchs(width: int, schedule: Schedule, per_worker: int, parts: int) -> Step:
    """The same stages by hand with torch's pieces."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    model = model_of(width)
    length = LAYERS // (workers * per_worker)
    numbers = range(rank, workers * per_worker, workers)
    modules = [model[number * length : (number + 1) * length] for number in numbers]
    stages = [
        PipelineStage(module, number, workers * per_worker, torch.device("cpu"))
        for number, module in zip(numbers, modules, strict=True)
    ]
    multiple = schedule in ("interleaved", "zero_bubble")
    runner = TORCHS[schedule](
        stages if multiple else stages[0], parts, loss_fn=lambda output, _: output.square().mean()
    )
    optimizer = torch.optim.SGD([tensor for module in modules for tensor in module.parameters()], lr=1e-4)

    def step(whole: Tensor) -> None:
        inputs = (whole,) if rank == 0 else ()
        runner.step(*inputs, **({"target": whole} if (workers * per_worker - 1) in numbers else {}))
        optimizer.step()
        optimizer.zero_grad()

    return step


def race(rank: int, workers: int, store: str, options: argparse.Namespace, results: Any) -> None:
    """One worker's part of all comparisons."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(workers)}
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= workers:
        os.sched_setaffinity(0, {cores[rank]})
    with allocator_applied("retained"):
        compare(rank, workers, store, options, results)


def compare(rank: int, workers: int, store: str, options: argparse.Namespace, results: Any) -> None:
    """All schedules, both ways in turns."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    torch.manual_seed(1)
    batch = torch.randn(options.parts * options.rows, options.length, options.width)
    for schedule in options.only:
        per_worker = 2 if schedule == "interleaved" else 1
        step, job = ours(options.width, schedule, per_worker, options.parts, batch)
        by_hand = torchs(options.width, schedule, per_worker, options.parts)
        rounds = []
        for number in range(options.rounds + 1):
            mine, events = timed(step, batch), shared_events(job)
            theirs = timed(by_hand, batch)
            if number:
                rounds.append((mine, theirs, events))
        if rank == 0:
            results.put((schedule, per_worker, rounds))
    dist.barrier()
    dist.destroy_process_group()


def timed(step: Step, batch: Tensor) -> float:
    """Time of a step (s), from when all workers begin to when all have ended."""
    dist.barrier()
    started = time.perf_counter()
    step(batch)
    dist.barrier()
    return time.perf_counter() - started


def shared_events(job: Pipelined) -> list[StageEvent]:
    """What all workers did in the last step; their clocks are one on this machine."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (job.began, job.events))
    first = min(began for began, _ in found)
    return [
        StageEvent(
            rank=event.rank, action=event.action, start=event.start + began - first, end=event.end + began - first
        )
        for began, some in found
        for event in some
    ]


def medians(rounds: Sequence[Sequence[StageEvent]]) -> dict[Work, float]:
    """How long each kind of work takes on a stage (s)."""
    found: dict[Work, list[float]] = {}
    for event in (event for events in rounds for event in events):
        found.setdefault(event.action.work, []).append(event.end - event.start)
    return {work: median(times) for work, times in found.items()}


def formula(schedule: Schedule, times: Mapping[Work, float], *, workers: int, stages: int, parts: int) -> float:
    """The schedule's bubble with equal stages that take so long, and no transfers."""
    lists = orders(schedule, num_workers=workers, num_stages=stages, num_micro_batches=parts)
    return bubble(simulated(lists, {(work, stage): time for work, time in times.items() for stage in range(stages)}))


def own_times(schedule: Schedule, events: Sequence[StageEvent], *, workers: int, stages: int, parts: int) -> float:
    """The bubble of the same order of work where every action takes as long as it did, and transfers nothing."""
    lists = orders(schedule, num_workers=workers, num_stages=stages, num_micro_batches=parts)
    took = {event.action: event.end - event.start for event in events}
    return bubble(replayed(lists, took.__getitem__))


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line per schedule."""
    context = mp.get_context("spawn")
    results = context.Queue()
    folder = tempfile.mkdtemp(prefix="pipeline-")
    processes = [
        context.Process(target=race, args=(rank, options.workers, f"{folder}/store", options, results))
        for rank in range(options.workers)
    ]
    for process in processes:
        process.start()
    rows = []
    for _ in options.only:
        schedule, per_worker, rounds = results.get(timeout=600)
        stages = options.workers * per_worker
        times = medians([events for _, _, events in rounds])
        ideal = formula(schedule, times, workers=options.workers, stages=stages, parts=options.parts)
        equal = balanced_bubble(
            schedule, num_workers=options.workers, num_stages=stages, num_micro_batches=options.parts
        )
        measured = median(bubble(events) for _, _, events in rounds)
        uneven = median(
            own_times(schedule, events, workers=options.workers, stages=stages, parts=options.parts)
            for _, _, events in rounds
        )
        rows.append(
            {
                "schedule": schedule,
                "ours s": median(mine for mine, _, _ in rounds),
                "torch s": median(theirs for _, theirs, _ in rounds),
                "ours / torch": median(mine / theirs for mine, theirs, _ in rounds),
                "bubble": measured,
                "formula": ideal,
                "with equal thirds": equal,
                "with the actions' own times": uneven,
                "idle beyond": measured - ideal,
                "measured in it": ", ".join(f"{work} {time * 1e3:.1f} ms" for work, time in sorted(times.items())),
            }
        )
        print(f"{schedule}: {rows[-1]}", file=sys.stderr, flush=True)
    for process in processes:
        process.join()
    return rows


def main() -> int:
    """Prints the table and its checks; 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=list(TORCHS), default=list(TORCHS), help="which schedules")
    parser.add_argument("--quick", action="store_true", help="narrow blocks, few rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.width, options.rounds = 256, 3
    rows = rows_of(options)
    checks = [
        check
        for row in rows
        for check in (
            outcome.at_most(f"{row['schedule']}: bubble / formula", row["bubble"] / row["formula"], 1.1),
            outcome.at_most(
                f"{row['schedule']}: bubble / the same with the actions' own times",
                row["bubble"] / row["with the actions' own times"],
                1.1,
            ),
            outcome.at_most(f"{row['schedule']}: time / torch's own schedule", row["ours / torch"], 1.03),
        )
    ]
    return outcome.publish(rows, checks, there=outcome.machine(), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
