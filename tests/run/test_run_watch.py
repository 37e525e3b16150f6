"""Losses that are no loss."""

import pytest
import torch

from meshwright.errors import LossError
from meshwright.run._watch import check_finite, checked


@pytest.mark.parametrize(
    ("output", "fact"),
    [
        (1.5, "the loss is a float, not a tensor"),
        (torch.zeros(4, requires_grad=True), r"the loss has shape \[4\]; it has to be a scalar"),
        (torch.tensor(1.0), "the loss does not depend on any trainable parameter"),
    ],
)
def test_what_is_no_loss_is_refused(output, fact):
    with pytest.raises(LossError, match=fact):
        checked(output)


def test_one_value_in_brackets_is_a_scalar():
    assert checked(torch.ones(1, requires_grad=True)).dim() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_names_the_step_and_what_to_do(value):
    with pytest.raises(LossError) as caught:
        check_finite(value, 12)
    assert caught.value.fact == f"the loss is {value} in step 12"
    assert "clip=1.0" in str(caught.value)
    check_finite(3.0, 12)
