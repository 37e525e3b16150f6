"""A program compared with its model by several workers, each of which has a share of the gradients."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from meshwright.errors import ProgramError
from meshwright.parallel.program import ProgramStore
from meshwright.parallel.program._distances import Distances, squared_distance
from meshwright.parallel.program._peers import Peers, peers_of

WIDTH = 1100


class Wrong(torch.autograd.Function):
    """Its backward is not what autograd would do."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Two(nn.Module):
    """Only the first layer's gradient comes through the wrong backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Wrong.apply(self.first(x)))  # pyrefly: ignore


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def declined(rows: list[int]) -> tuple[tuple[int, ...], str]:
    """Who is like this worker, and why it was declined."""
    mine = torch.randn(rows[dist.get_rank()], 4)
    alike = tuple(peers_of(dist.group.WORLD, repr(mine.shape)).alike)
    torch.manual_seed(0)
    try:
        ProgramStore(Two(), loss, group=dist.group.WORLD).program(mine)
    except ProgramError as error:
        return alike, str(error)
    return alike, ""


@pytest.mark.parametrize(("rows", "alike"), [([8, 8], [(0, 1), (0, 1)]), ([8, 6], [(0,), (1,)])])
def test_all_workers_decline_what_one_of_them_found(workers: Any, rows: list[int], alike: list[Any]) -> None:
    found = workers(2).run(declined, rows)
    assert [one for one, _ in found] == alike
    assert all("(worst: first.weight)" in message for _, message in found)
    assert len({message for _, message in found}) == 1


def test_shares_are_about_equal_and_everything_is_in_one() -> None:
    tensors = {"a": torch.zeros(6), "b": torch.zeros(3), "c": torch.zeros(2), "d": torch.zeros(1)}
    shares = [Peers(alike=(0, 2), number=number).share(tensors) for number in (0, 2)]
    assert shares == [["a"], ["b", "c", "d"]]


def test_gradients_are_let_go_of_as_they_come() -> None:
    weight, unused = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(3))
    expected = {"weight": torch.full((WIDTH, WIDTH), 2.0), "unused": torch.ones(3)}
    parameters = {"weight": weight, "unused": unused}
    total = (weight * 5).sum()
    with Distances(parameters, expected) as distances:
        gradients = torch.autograd.grad(total, [weight, unused], allow_unused=True)
        got = dict(zip(parameters, gradients, strict=True))
        assert got["weight"].untyped_storage().nbytes() == 4
        distances.take_rest(got)
    assert distances.squares == {"weight": 9.0 * WIDTH**2, "unused": 3.0}
    assert not expected
    assert not weight._backward_hooks


def test_a_difference_is_taken_in_double_precision() -> None:
    one, other = torch.tensor([1e8, 1.0]), torch.tensor([1e8, 0.0])
    assert squared_distance(one, other) == 1.0
    assert squared_distance(None, other) == 1e16
    assert squared_distance(None, None) == 0.0


def compared_by_more_than_it_has() -> int:
    """Programs of a model with a single parameter."""
    store = ProgramStore(nn.Linear(4, 4, bias=False), loss, group=dist.group.WORLD)
    store.program(torch.ones(2, 4))
    return len(store.programs)


def test_workers_without_a_parameter_to_compare_take_part(workers: Any) -> None:
    assert workers(2).run(compared_by_more_than_it_has) == [1, 1]
