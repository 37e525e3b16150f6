"""The captured program of a model of the zoo computes the model's loss and gradients; a quarter of them every day."""

import pytest
import torch

from meshwright.errors import ProgramError
from meshwright.parallel.program import capture_program
from zoo import ZOO, zoo_model
from zoo._rotation import of_today


@pytest.fixture(autouse=True)
def _quick() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [model.name for model in of_today([m for m in ZOO if m.captured], every=4)])
@pytest.mark.filterwarnings("ignore")
def test_program_equals_model(name: str) -> None:
    model, loss, batch = zoo_model(name).make()
    program = capture_program(model, loss, batch)
    expected = _step(model, loss(model, batch))
    torch.testing.assert_close(_step(model, program(batch)), expected)
    assert program.parameters.keys() <= dict(model.named_parameters()).keys()


def _step(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("name", [model.name for model in ZOO if not model.captured])
def test_a_model_that_is_no_fixed_graph_is_declined(name: str) -> None:
    with pytest.raises(ProgramError, match=r"is not one fixed graph: .*_own\.py:"):
        capture_program(*zoo_model(name).make())
