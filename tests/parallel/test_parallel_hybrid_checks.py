"""What a split model cannot do is said before anything is split."""

import pytest
import torch
from hybrid_jobs import Case, batch, job, strategy
from torch import nn

from meshwright.cost import Kernels, Mesh, Pipeline
from meshwright.errors import PlanError
from meshwright.parallel._elementwise import is_elementwise
from meshwright.run import Engine


def _optimizers() -> dict[str, torch.optim.Optimizer]:
    matrices = [nn.Parameter(torch.randn(3, 3)) for _ in range(9)]
    return {
        name: getattr(torch.optim, name)([parameter], lr=1e-2)
        for name, parameter in zip(
            ("AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "Adamax", "Rprop", "Muon", "Adafactor"),
            matrices,
            strict=True,
        )
    }


def test_which_optimizers_step_each_value_by_itself():
    found = {name: is_elementwise(optimizer) for name, optimizer in _optimizers().items()}
    assert [name for name, alone in found.items() if not alone] == ["Muon", "Adafactor"]


def test_asking_leaves_the_optimizer_as_it_was():
    parameter = nn.Parameter(torch.ones(3, 3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3, 3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    assert is_elementwise(optimizer)
    assert torch.equal(parameter, torch.ones(3, 3))
    assert not called
    assert not optimizer.state
    optimizer.step()
    scheduler.step()
    assert called == [1]


def _refused(case: Case, optimizer: str) -> str:
    one = job(case, 0)
    if optimizer:
        one = type(one)(
            model=one.model, loss=one.loss, optimizer=getattr(torch.optim, optimizer)(one.model.parameters(), lr=1e-2)
        )
    with pytest.raises(PlanError) as raised:
        Engine(one, strategy(case)).step(batch(case, 0))
    return str(raised.value)


@pytest.mark.parametrize(
    ("case", "optimizer", "words"),
    [
        (Case(mesh=Mesh(tp=2)), "Adafactor", "Adafactor cannot step parts of parameters (tensor)"),
        (Case(mesh=Mesh(tp=2), choices=(("kernels", Kernels(compiled=True)),)), "", "tensor = 2 with compiled blocks"),
        (Case(mesh=Mesh(pp=2), choices=(("recompute", ("nowhere",)),)), "", "recomputes 'nowhere'"),
        (
            Case(mesh=Mesh(pp=2), choices=(("pipeline", Pipeline(cuts=("layers.9",))),)),
            "",
            "'layers.9'",
        ),
    ],
    ids=["optimizer", "compiled", "recompute", "cut"],
)
def test_declined_with_a_reason_on_every_worker(workers, case, optimizer, words):
    for message in workers(2).run(_refused, case, optimizer):
        assert words in message
        assert "instead:" in message or "next:" in message
