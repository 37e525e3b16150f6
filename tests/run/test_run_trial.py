"""Strategies raced with the real engine, alone and on two processes; whatever happens, the job stays as it was."""

import random
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from run_jobs import strategy
from torch import nn

from meshwright.cost import Kernels
from meshwright.run import Job
from meshwright.run._trial import LateRival, follow, trial

BUDGET = 1.0


def job() -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    return Job(model=model, optimizer=optimizer, loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 8), torch.randint(0, 4, (16,))


def state(work: Job) -> list[object]:
    return [
        [parameter.detach().clone().tolist() for parameter in work.model.parameters()],
        [parameter.grad for parameter in work.model.parameters()],
        str(work.optimizer.state_dict()),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_num_threads(),
    ]


def test_one_process_tries_what_it_can_and_changes_nothing():
    work, examples = job(), batch()
    alone = strategy(16, 1)
    strategies = [
        alone,
        strategy(16, 2),
        replace(alone, kernels=Kernels(compiled=True)),
        replace(alone, recompute=("9",)),
        replace(alone, kernels=Kernels(matrix_library="onednn", optimizer="fused", allocator="retained")),
    ]
    before = state(work)
    results = trial(work, examples, strategies, budget=BUDGET)
    assert state(work) == before
    assert set(results) == {0, 3, 4}
    assert results[3].failure
    for index in (0, 4):
        assert results[index].step > 0
        assert results[index].low <= results[index].step
        assert results[index].memory > 2**20


def race_with_a_late_rival():
    work, examples = job(), batch()
    first = strategy(16, 2)

    def late(results):
        assert set(results) == {0}
        return LateRival(replace(first, sharding="optimizer"), against=0)

    if dist.get_rank() == 0:
        return trial(work, examples, [first], budget=BUDGET, late=late)
    return follow(work, examples)


def test_a_late_rival_runs_on_all_workers_behind_the_others(workers):
    results, _ = workers(2).run(race_with_a_late_rival)
    assert set(results) == {0, 1}
    assert results[1].step > 0
    assert not results[1].failure


def race_of_two(strategies):
    work, examples = job(), batch()
    before = state(work)
    results = trial(work, examples, strategies, budget=BUDGET) if dist.get_rank() == 0 else follow(work, examples)
    return state(work) == before, results


def test_two_processes_run_at_once_and_one_alone_while_the_other_waits(workers):
    strategies = [strategy(16, 2), strategy(16, 1), strategy(16, 2, sharding="optimizer")]
    (unchanged, results), (follower_unchanged, _) = workers(2).run(race_of_two, strategies)
    assert unchanged
    assert follower_unchanged
    assert set(results) == {0, 1, 2}
    assert all(result.step > 0 and not result.failure for result in results.values())


def test_a_strategy_that_fails_on_both_ranks_is_reported_and_the_rest_goes_on(workers):
    strategies = [replace(strategy(16, 2), recompute=("9",)), strategy(16, 1)]
    (unchanged, results), _ = workers(2).run(race_of_two, strategies)
    assert unchanged
    assert results[0].failure
    assert results[1].step > 0
