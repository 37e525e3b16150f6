"""Losses that are no loss, and steps that become slow."""

import pytest
import torch

from meshwright.errors import LossError
from meshwright.run._watch import Drift, check_finite, checked


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


def test_drift_is_told_once_and_again_after_it_was_over():
    drift = Drift(0.0)
    told = [drift.add(0.10, step) for step in range(1, 21)]
    told += [drift.add(0.25, step) for step in range(21, 61)]
    told += [drift.add(0.10, step) for step in range(61, 81)]
    told += [drift.add(0.30, step) for step in range(81, 101)]
    told = [text for text in told if text]
    assert len(told) == 2
    assert told[0].startswith(
        "meshwright: steps 21 to 40 took 250 ms each, 2.5 × the 100 ms they took at the start: the load of the machine"
    )


def test_short_steps_are_watched_over_two_seconds():
    """32 steps of 62.5 ms are 2 s; of 125 ms, 20 steps are more than that."""
    drift = Drift(0.0)
    told = {step: text for step in range(1, 60) if (text := drift.add(0.0625 if step <= 32 else 0.125, step))}
    assert list(told) == [52]
    assert told[52].startswith("meshwright: steps 33 to 52 took 125 ms each, 2.0 × the 62.5 ms they took at the start")


def test_steps_slower_than_predicted_are_told_at_the_start():
    drift = Drift(0.10)
    told = [text for step in range(1, 41) if (text := drift.add(0.20, step))]
    assert len(told) == 1
    assert "2.0 × the predicted 100 ms: the machine is busier than when the plan was made" in told[0]
