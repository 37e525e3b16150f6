"""Lower precision only by name, and only where it is sound."""

import pytest
import torch

from meshwright.cost import Precision
from meshwright.errors import PlanError
from meshwright.numerics import precision_applied


def test_as_written_is_float32():
    a = torch.randn(8, 8)
    with precision_applied(Precision()):
        assert (a @ a).dtype is torch.float32


def test_allowed_bfloat16_computes_products_in_it_and_keeps_parameters():
    layer = torch.nn.Linear(8, 8)
    with precision_applied(Precision(compute="bfloat16"), allow=("precision",)):
        assert layer(torch.randn(2, 8)).dtype is torch.bfloat16
    assert layer.weight.dtype is torch.float32


def test_lower_precision_without_permission_is_refused():
    with pytest.raises(PlanError, match="the plan computes in bfloat16, but lower precision was not allowed"):
        precision_applied(Precision(compute="bfloat16"))


def test_float16_is_refused_for_its_range():
    with pytest.raises(PlanError) as caught:
        precision_applied(Precision(compute="float16"), allow=("precision",))
    assert "float16 loses small gradients unless the loss is scaled" in str(caught.value)


def test_parameters_stay_as_written():
    with pytest.raises(PlanError, match="the plan keeps parameters in bfloat16"):
        precision_applied(Precision(parameters="bfloat16"), allow=("precision",))


def test_gradients_travel_in_16_bits_only_where_that_is_allowed():
    with pytest.raises(PlanError, match="the plan sends gradients in bfloat16, but lower precision was not allowed"):
        precision_applied(Precision(reduction="bfloat16"))
    with pytest.raises(PlanError, match="the plan sends gradients in int8"):
        precision_applied(Precision(reduction="int8"), allow=("precision",))
    with precision_applied(Precision(reduction="bfloat16"), allow=("precision",)):
        assert torch.nn.Linear(8, 8)(torch.randn(2, 8)).dtype is torch.float32
