"""When a heap that has grown is given back to the system."""

import math
import sys

import pytest
import torch

from meshwright.numerics import Heap, heap_for

MIB = 2**20


def test_growth_beyond_a_sixteenth_of_a_step_on_a_fresh_heap_is_given_back() -> None:
    sizes = iter([900, 700, 743, 744, 710, 754, 755, 700])
    calls: list[None] = []
    heap = Heap(resident=lambda: next(sizes) * MIB, give_back=lambda: calls.append(None))
    numbers = []
    for _ in range(8):
        heap.tend()
        numbers.append(len(calls))
    # 1st: the preparation's; 2nd: 700 is usual, 743.75 allowed; 5th: 710 is usual, 754.4 allowed; 8th: measured anew
    assert numbers == [1, 1, 1, 2, 2, 2, 3, 3]


def test_memory_that_is_to_stay_is_given_back_after_the_first_step_only() -> None:
    sizes = iter([2400, 700, 1400, 2100])
    calls: list[None] = []
    heap = Heap(resident=lambda: next(sizes) * MIB, give_back=lambda: calls.append(None), slack=math.inf)
    for _ in range(4):
        heap.tend()
    assert len(calls) == 1
    assert heap_for("default", "cuda") is None


@pytest.mark.skipif(sys.platform != "linux", reason="the heap of glibc")
def test_free_blocks_of_this_process_go_back() -> None:
    heap = heap_for("default", "cpu")
    assert heap is not None
    # below the size that glibc maps apart, and held in place by the last of them
    blocks = [torch.ones(25_000) for _ in range(1000)]
    pinned, blocks = blocks[-1], blocks[:-1]
    filled = heap._resident()
    blocks.clear()
    heap.tend()
    assert heap._resident() < filled - 50 * MIB
    assert pinned.sum() == 25_000
