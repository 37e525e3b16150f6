"""The orders of the schedules against those of torch, and what a step holds on the way."""

import gc
import weakref

import pytest
import torch
from pipeline_jobs import Losses, Programs, micro_batches, model_of
from pipeline_models import CASES
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, ScheduleInterleavedZeroBubble

from meshwright.cost import Pipeline, orders
from meshwright.parallel.pipeline import Pipelined, cut

TORCHS = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
}
WORKS = {"F": "forward", "B": "backward", "I": "input", "W": "weight"}


class FakeStage:
    """As much of torch's stage as its schedules look at; notes what it is asked to do."""

    def __init__(self, index, count, workers):
        self.stage_index, self.num_stages = index, count
        self.group_size, self.group_rank = workers, index % workers
        self.is_first, self.is_last = index == 0, False
        self.has_backward = True
        self.submod = torch.nn.Identity()
        self.stage_index_to_group_rank = {number: number % workers for number in range(count)}
        self.device, self.group = torch.device("cpu"), None
        self.done = []

    def forward_one_chunk(self, number, *_, **__):
        self.done.append(("forward", self.stage_index, number))

    def backward_one_chunk(self, number, **_):
        self.done.append(("backward", self.stage_index, number))

    def _nothing(self, *_):
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = perform_reduce_grad = _nothing


def torchs_order(schedule, workers, per_worker, micro_batches):
    count = workers * per_worker
    kind = TORCHS[schedule]
    stages = [FakeStage(index, count, workers) for index in range(count)]
    if issubclass(kind, PipelineScheduleSingle):
        for stage in stages:
            made = kind(stage, micro_batches)
            made._stage_initialized = made._stage_forward_initialized = True
            made._initialize_stage = lambda *_, **__: None
            made._step_microbatches([()] * micro_batches, [{}] * micro_batches)
        return [stage.done for stage in stages]
    order = kind(stages[::workers], micro_batches, loss_fn=lambda *_: None).pipeline_order
    every = [[action for action in order[rank] if action] for rank in range(workers)]
    return [
        [(WORKS[one.computation_type.value], one.stage_index, one.microbatch_index) for one in some] for some in every
    ]


@pytest.mark.parametrize(
    ("schedule", "per_worker", "micro_batches"),
    [
        ("gpipe", 1, 4),
        ("1f1b", 1, 4),
        ("1f1b", 1, 9),
        ("interleaved", 2, 8),
        ("interleaved", 3, 4),
        ("interleaved", 2, 10),
        ("zero_bubble", 1, 8),
        ("zero_bubble", 2, 8),
    ],
)
def test_orders_are_torchs(schedule, per_worker, micro_batches):
    found = orders(schedule, num_workers=4, num_stages=4 * per_worker, num_micro_batches=micro_batches)
    mine = [[(action.work, action.stage, action.micro_batch) for action in actions] for actions in found]
    assert mine == torchs_order(schedule, 4, per_worker, micro_batches)


class Kept:
    """One tensor that autograd saved."""

    def __init__(self, tensor):
        self.tensor = tensor


def most_kept(schedule, sizes):
    """Most bytes that autograd kept at once on this worker, of all tensors but parameters."""
    torch.manual_seed(0)
    case = CASES["perceptron"]
    model = model_of(case)
    job = Pipelined(
        Programs(model, case), micro_batches(case, sizes, 0)[0], model=model,
        pipeline=Pipeline(schedule=schedule, cuts=("6",)), group=torch.distributed.group.WORLD,
    )  # fmt: skip
    # only now: the memory of those that another stage has is free, and activations may be put there
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    live, most = [0], [0]

    def leave(size):
        live[0] -= size

    def pack(tensor):
        kept = Kept(tensor)
        if tensor.data_ptr() not in parameters and not isinstance(tensor, torch.nn.Parameter):
            live[0] += tensor.nbytes
            most[0] = max(most[0], live[0])
            weakref.finalize(kept, leave, tensor.nbytes)
        return kept

    batches = micro_batches(case, sizes, 0)
    gc.disable()
    try:
        with saved_tensors_hooks(pack, lambda kept: kept.tensor):
            job.compute(batches, Losses(sizes).begin)
    finally:
        gc.enable()
    return most[0], live[0]


def test_1f1b_keeps_as_many_micro_batches_as_stages_follow(workers):
    one = [most for most, _ in workers(2).run(most_kept, "1f1b", (4,))]
    for count in (2, 4, 8):
        outcomes = workers(2).run(most_kept, "1f1b", (4,) * count)
        assert [most for most, _ in outcomes] == [2 * one[0], one[1]]
        assert [left for _, left in outcomes] == [0, 0]
    assert [most for most, _ in workers(2).run(most_kept, "gpipe", (4,) * 8)] == [8 * one[0], 8 * one[1]]


def dropout_on_one_worker():
    """Gradients of two stages with dropout, each drawing from a generator of its own."""
    case = CASES["dropout"]
    model = model_of(case)
    batch = micro_batches(case, (4,), 0)[0]
    first, second = cut(Programs(model, case)(batch), case.cuts)
    torch.manual_seed(0)
    made = first([batch], [])
    received = [value.detach().requires_grad_() for value in made]
    torch.manual_seed(1)
    second([batch], received).backward()
    torch.autograd.backward(made, [value.grad for value in received])
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def dropout_on_two(schedule):
    """The same as a pipeline."""
    case = CASES["dropout"]
    model = model_of(case)
    batch = micro_batches(case, (4,), 0)[0]
    pipeline = Pipeline(schedule=schedule, cuts=case.cuts)
    job = Pipelined(Programs(model, case), batch, model=model, pipeline=pipeline, group=torch.distributed.group.WORLD)
    torch.manual_seed(torch.distributed.get_rank())
    job.compute([batch], Losses((4,)).begin)
    job.holdings.sum_tied()
    return job.holdings.full_gradients()


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_dropout_draws_on_each_stage_what_the_stage_alone_draws(workers, schedule):
    expected = dropout_on_one_worker()
    for found in workers(2).run(dropout_on_two, schedule):
        for name, gradient in expected.items():
            assert (gradient is None) == (found[name] is None)
            if gradient is not None:
                torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)
