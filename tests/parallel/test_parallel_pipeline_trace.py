"""The engine's traces of pipelined steps: what each worker did, when, and that it is what the schedule says."""

from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from pipeline_jobs import micro_batches, model_of
from pipeline_models import CASES

from meshwright.cost import Batch, Mesh, Pipeline, Strategy, Worker, bubble, orders, read_trace
from meshwright.run import Engine, Job
from meshwright.run._trace import Tracer

PARTS = 4


def traced(folder):
    """Two steps of an engine, the second of which is written down."""
    case = CASES["perceptron"]
    model = model_of(case)
    job = Job(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss=case.loss)
    size, rank = dist.get_world_size(), dist.get_rank()
    strategy = Strategy(
        workers=tuple(Worker(rank=number, host="here", device="cpu", threads=1) for number in range(size)),
        mesh=Mesh(pp=size),
        batch=Batch(size=8, shares=(1,), accumulation=PARTS),
        pipeline=Pipeline(schedule="1f1b", cuts=("6",)),
    )
    engine = Engine(job, strategy, rank=rank)
    tracer = Tracer(Path(folder), rank)
    for step in range(3):
        engine.step(micro_batches(case, (8,), step)[0])
        tracer.look_at(engine)
    engine.close()


def test_every_worker_writes_its_part_of_a_step(workers, tmp_path):
    workers(2).run(traced, str(tmp_path))
    traces = [read_trace(tmp_path / "trace" / f"rank-{rank}.json") for rank in range(2)]
    expected = orders("1f1b", num_workers=2, num_stages=2, num_micro_batches=PARTS)
    for rank, trace in enumerate(traces):
        assert (trace.rank, trace.step) == (rank, 2)
        assert tuple(event.action for event in sorted(trace.stages, key=lambda event: event.start)) == expected[rank]
        assert {phase.name for phase in trace.phases} >= {"optimizer"}
        assert min(event.start for event in trace.stages) >= 0
        assert max(event.end for event in trace.stages) <= max(phase.end for phase in trace.phases) + 1e-3
    together = [event for trace in traces for event in trace.stages]
    assert Counter(event.rank for event in together) == {0: 2 * PARTS, 1: 2 * PARTS}
    assert 0 < bubble(together) < 1
