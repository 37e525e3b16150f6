"""Activations in the host's memory: the same bits, what stays on the device, and what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

from meshwright.cost import Batch, Kernels, Mesh, Strategy, Worker
from meshwright.errors import PlanError
from meshwright.parallel import ActivationOffload, apply

PATHS = ["blocks.0", "blocks.1"]


class _Block(nn.Module):
    """Saves an input three times, a result that is changed in place afterwards, and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, value: Tensor) -> Tensor:
        summed = torch.tanh(self.one(value)) * self.other(value) + self.third(value).relu_()
        return nn.functional.dropout(summed, 0.25) + value.expand(2, -1, -1).mean(0)


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(), _Block()])

    def forward(self, value: Tensor) -> Tensor:
        for block in self.blocks:
            value = block(value)
        return value.square().mean()


def _trained(*, smallest: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = _Model()
    offload = None if smallest is None else ActivationOffload(model, PATHS, smallest=smallest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(3):
        model(torch.full((4, 6), 1.0 + step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    if offload is not None:
        offload.close()
        assert all("forward" not in block.__dict__ for block in model.blocks)
    return [parameter.detach() for parameter in model.parameters()]


def test_the_same_bits() -> None:
    for one, other in zip(_trained(smallest=None), _trained(smallest=0), strict=True):
        assert torch.equal(one, other)


def _saved(model: _Model) -> list[Tensor]:
    """What the graph of a forward keeps, blocks and all."""
    found: list[Tensor] = []
    seen: set[object] = set()
    nodes = [model(torch.ones(4, 6)).grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [value for name in dir(node) if name.startswith("_saved_")
                  if isinstance(value := getattr(node, name), Tensor)]  # fmt: skip
        nodes += [following for following, _ in node.next_functions]
    return found


def test_what_blocks_save_is_a_copy_and_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.parallel import _activation_offload as room

    carried: list[Tensor] = []
    monkeypatch.setattr(room, "_on_host", lambda tensor: carried.append(tensor) or tensor.clone())
    model = _Model()
    ActivationOffload(model, PATHS, smallest=0)
    _saved(model)
    own = {one.data_ptr() for one in model.parameters()}
    assert carried
    assert not own & {one.data_ptr() for one in carried}
    shapes = [tuple(one.shape) for one in carried]
    # of each block: its input once for three layers, tanh's result and the other factor, relu's, and the mask
    assert shapes.count((4, 6)) == 2 * 5


def test_small_tensors_and_forwards_without_gradients_carry_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.parallel import _activation_offload as room

    carried: list[Tensor] = []
    monkeypatch.setattr(room, "_on_host", lambda tensor: carried.append(tensor) or tensor.clone())
    model = _Model()
    offload = ActivationOffload(model, PATHS)
    model(torch.ones(4, 6)).backward()
    offload.close()
    ActivationOffload(model, PATHS, smallest=0)
    with torch.no_grad():
        model(torch.ones(4, 6))
    assert carried == []


def test_a_copy_of_the_model_has_its_own_forward() -> None:
    model = _Model()
    ActivationOffload(model, PATHS)
    assert copy.deepcopy(model).blocks[0].forward.__func__ is _Block.forward


@pytest.mark.parametrize("paths", [[], ["blocks.0", "blocks.7"]])
def test_blocks_that_are_not_there_are_refused(paths: list[str]) -> None:
    with pytest.raises(PlanError, match="are to be in the host's memory"):
        ActivationOffload(_Model(), paths)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("a split model", {"mesh": Mesh(tp=2)}),
        ("compiled blocks", {"kernels": Kernels(compiled=True)}),
        ("recompute", {"recompute": ("blocks.0",)}),
    ],
)
def test_what_no_block_saves_is_refused(what: str, changes: dict) -> None:
    plan = Strategy(
        workers=(Worker(rank=0, host="h", device="cpu", threads=1),), batch=Batch(size=2, shares=(1,)),
        offload="activations", **changes,
    )  # fmt: skip
    model = _Model()
    with pytest.raises(PlanError, match=f"offload = activations with {what}"):
        apply(model, torch.optim.AdamW(model.parameters()), plan)
