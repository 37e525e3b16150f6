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


@pytest.mark.parametrize("field", ["parameters", "reduction"])
def test_storage_stays_as_written(field):
    with pytest.raises(PlanError, match=f"the plan keeps {field} in bfloat16"):
        precision_applied(Precision(**{field: "bfloat16"}), allow=("precision",))
