"""Shares of a batch and micro-batches of a share."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cost import Batch
from meshwright.run._batch import bounds, cut, examples_of, loaded, whole

Pair = namedtuple("Pair", ["x", "y"])
EMPTY, ONE = slice(0, 0), slice(0, 1)


@dataclass(frozen=True)
class Record:
    """A frozen dataclass of a tensor and a name."""

    x: torch.Tensor
    name: str


@given(st.integers(0, 300), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_bounds_cover_the_batch_and_follow_the_shares(size, shares):
    ends = bounds(size, shares)
    assert ends[0] == 0
    assert ends[-1] == size
    for start, end, share in zip(ends, ends[1:], shares, strict=False):
        assert abs((end - start) - size * share / sum(shares)) < 1


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_every_example_is_computed_once_and_all_workers_run_equally_many_parts(size, num_workers, accumulation):
    plan = Batch(size=size, shares=(1,) * num_workers, accumulation=accumulation)
    seen, lengths = [], set()
    for rank in range(num_workers):
        share = cut(whole(torch.arange(size), size=size, plan=plan, rank=rank), plan, stand_in=ONE)
        lengths.add(len(share.parts))
        for part in share.parts:
            assert len(part.batch) == max(part.examples, 1)
            seen += part.batch.tolist() if part.examples else []
    assert seen == list(range(size))
    assert len(lengths) == 1


def test_the_whole_batch_of_one_worker_is_handed_on_as_it_is():
    batch = {"x": torch.arange(4)}
    share = cut(whole(batch, size=4, plan=Batch(size=4, shares=(1,)), rank=0), Batch(size=4, shares=(1,)), stand_in=ONE)
    assert share.parts[0].batch is batch


def test_a_worker_without_examples_gets_a_stand_in_that_counts_nothing():
    plan = Batch(size=8, shares=(1, 1))
    share = cut(whole(torch.arange(1), size=1, plan=plan, rank=0), plan, stand_in=EMPTY)
    assert [(len(part.batch), part.examples) for part in share.parts] == [(0, 0)]
    share = cut(loaded(torch.arange(1), count=0, size=1), plan, stand_in=ONE)
    assert [(len(part.batch), part.examples) for part in share.parts] == [(1, 0)]


def test_slices_are_views_of_the_same_memory():
    batch = torch.arange(6)
    assert examples_of(batch, slice(2, 4), 6).data_ptr() == batch[2:].data_ptr()


def test_structures_are_kept():
    x = torch.arange(8).reshape(4, 2)
    where = slice(1, 3)
    assert isinstance(examples_of(Pair(x, x), where, 4), Pair)
    assert examples_of(Record(x, "a"), where, 4).name == "a"
    assert examples_of(Record(x, "a"), where, 4).x.tolist() == [[2, 3], [4, 5]]
    encoding = examples_of(UserDict(x=x), where, 4)
    assert isinstance(encoding, UserDict)
    assert encoding["x"].shape == (2, 2)
    nested = examples_of([{"x": (x, numpy.arange(4))}, "text", torch.tensor(7), x[:3]], where, 4)
    assert nested[0]["x"][1].tolist() == [1, 2]
    assert nested[1:3] == ["text", torch.tensor(7)]
    assert nested[3].shape == (3, 2)


def test_a_list_of_texts_is_shared_with_the_tensors():
    batch = {"x": torch.zeros(4), "texts": ["a", "b", "c", "d"]}
    assert examples_of(batch, slice(2, 4), 4)["texts"] == ["c", "d"]


def test_a_transformers_encoding_keeps_its_class():
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": torch.arange(6).reshape(3, 2)})
    part = examples_of(encoding, slice(0, 1), 3)
    assert isinstance(part, transformers.BatchEncoding)
    assert part.input_ids.tolist() == [[0, 1]]
    assert encoding.input_ids.shape == (3, 2)
