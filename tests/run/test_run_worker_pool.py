"""The pool of worker processes that other tests stand on."""

import os

import pytest
import torch
import torch.distributed as dist

from workers import WorkerFailedError


def total(start):
    value = torch.tensor(float(start + dist.get_rank()))
    dist.all_reduce(value)
    return value.item()


def identity():
    return os.getpid()


def failing_on_one():
    if dist.get_rank() == 1:
        raise ValueError("rank one is unwell")
    dist.barrier()


def dying():
    if dist.get_rank() == 0:
        os._exit(3)


def test_every_rank_answers_in_order_of_rank(workers):
    assert workers(2).run(total, 1) == [3.0, 3.0]
    assert workers(4).run(total, 0) == [6.0] * 4


def test_processes_are_reused(workers):
    assert workers(2).run(identity) == workers(2).run(identity)


def test_failure_names_the_rank_and_shows_its_traceback(workers):
    with pytest.raises(WorkerFailedError, match="rank one is unwell"):
        workers(2).run(failing_on_one)
    assert workers(2).run(total, 1) == [3.0, 3.0]


def test_death_is_a_failure_and_the_pool_starts_again(workers):
    with pytest.raises(WorkerFailedError, match="rank 0:\nthe process died"):
        workers(2).run(dying)
    assert workers(2).run(total, 1) == [3.0, 3.0]
