"""Local programs on 2 and 4 workers compute what one device does."""

import pytest
from tensor_jobs import zoo_parity

# Relative to the whole gradient, in double precision.
TOLERANCE = 1e-10


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "vit", "convnext", "gpt-neox", "nanogpt"])
def test_zoo_on_two_workers(workers, name):
    """Half of the parameters on each worker, and the same step."""
    for found in workers(2).run(zoo_parity, name, "whole"):
        assert found.share < 0.56
        assert max(found.loss, found.gradients, found.buffers) < TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama", "resnet"])
def test_zoo_on_four_workers(workers, name):
    """A quarter of the parameters on each worker, but for what four do not divide."""
    for found in workers(4).run(zoo_parity, name, "whole", timeout=200):
        assert found.share < 0.32
        assert max(found.loss, found.gradients, found.buffers) < TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_sequence_split(workers, name):
    """Norms and residuals on parts of the sequence, sums scattered and parts gathered between them."""
    for found in workers(2).run(zoo_parity, name, "split"):
        assert max(found.loss, found.gradients, found.buffers) < TOLERANCE
        names = {(one.name, one.phase) for one in found.scheme.exchanges if one.size > 0}
        assert {("reduce_scatter", "forward"), ("all_gather", "forward")} <= names
