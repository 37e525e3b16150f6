"""How many examples a batch holds, in every structure, and what is said when that cannot be told."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.errors import BatchError
from meshwright.graph.capture import batch_size
from meshwright.graph.capture_batch import batch_bytes, leaves, resized

Point = namedtuple("Point", "x y")


@dataclass(frozen=True, slots=True)
class Sample:
    x: torch.Tensor
    names: list[str]


X = torch.arange(12.0).view(6, 2)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, torch.zeros(6)),
        {"x": X, "nested": [X, {"mask": X > 0}]},
        UserDict(x=X, y=X),
        MappingProxyType({"x": X}),
        Point(X, X),
        Sample(X, list("abcdef")),
        {"x": X, "temperature": torch.tensor(2.0), "positions": torch.zeros(1, 9)},
        {"x": np.zeros((6, 2)), "name": "train"},
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_batch_size_and_resizing_keep_the_structure(batch: Any) -> None:
    assert batch_size(batch) == 6
    for size in (4, 9):
        other = resized(batch, size)
        assert batch_size(other) == size
        assert type(other) is (dict if isinstance(batch, MappingProxyType) else type(batch))
        assert [path for path, _ in leaves(other)] == [path for path, _ in leaves(batch)]
    assert batch_size(batch) == 6


def test_resizing_takes_the_first_examples_or_all_over_again() -> None:
    sample = resized(Sample(X, list("abcdef")), 8)
    assert torch.equal(sample.x, torch.cat([X, X[:2]]))
    assert sample.names == list("abcdefab")
    assert torch.equal(resized(X, 2), X[:2])


def test_batch_bytes() -> None:
    assert batch_bytes({"x": X, "y": np.zeros(3), "z": "text"}) == 48 + 24


@given(size=st.integers(1, 40), other=st.integers(1, 40))
def test_resizing_there_and_back(size: int, other: int) -> None:
    batch = {"x": torch.arange(size), "y": (torch.zeros(size, 3),)}
    there = resized(batch, other)
    assert batch_size(there) == other
    shared = min(size, other)
    assert torch.equal(there["x"][:shared], batch["x"][:shared])


def test_no_tensor() -> None:
    with pytest.raises(BatchError) as caught:
        batch_size({"text": ["a", "b"]})
    assert str(caught.value) == (
        "the batch (dict) holds no tensor with a dim for its examples\n"
        "  because: the number of examples is read from the leading dim of its tensors\n"
        "  instead: give a tensor, or a dict, tuple, list or dataclass of tensors, examples first"
    )


def test_size_0() -> None:
    with pytest.raises(BatchError, match=r"^a batch of size 0: x \[0, 3\]"):
        batch_size({"x": torch.zeros(0, 3)})


def test_disagreement() -> None:
    with pytest.raises(BatchError) as caught:
        batch_size({"x": torch.zeros(8, 3), "y": (torch.zeros(6),)})
    assert str(caught.value).startswith(
        "the batch's tensors disagree about the number of examples: x [8, 3], y.0 [6]\n"
        "  because: every tensor of a batch is split along its leading dim\n"
    )
