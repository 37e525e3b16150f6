"""The proof finds plans equal that are, and tells those that are not."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from run_jobs import Dropping, Normed, Tied, cross_entropy, labelled, masked_cross_entropy, masked_tokens, mlp, strategy
from torch import nn

import meshwright as mw
from meshwright.cost import Verification
from meshwright.documents import read_toml
from meshwright.errors import LossError, NotEqualError, UsageError
from meshwright.run import Role
from meshwright.run._distance import distance
from meshwright.run._job import Job
from meshwright.run._proof import Proof


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def sum_of_squares(model, batch):
    """Wrong for several workers: a sum handed over as if it were a mean."""
    return model(batch[0]).square().sum()


def verified(model, loss, batches, plan, dtype, optimizer):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    answer = mw.verify(model, optimizer(model), loss, batches, plan=plan, dtype=dtype)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    return answer


def test_sharded_optimizer_with_masked_tokens_in_float64(workers):
    torch.manual_seed(2)
    batches = [masked_tokens(size, seed) for seed, size in enumerate((6, 5, 3))]
    answers = workers(2).run(
        verified, Tied(), masked_cross_entropy, batches, strategy(6, sharding="optimizer"), torch.float64, adam
    )
    assert answers[0] == answers[1]
    found = answers[0]
    assert found.equal
    assert (found.steps, found.dtype, found.notes) == (3, "float64", ())
    assert max(found.loss, found.gradient, found.parameters) < 1e-9
    assert found.losses == pytest.approx(found.reference_losses, abs=1e-12)
    assert len(set(found.losses)) == 3


def test_float32_is_told_from_an_error_by_its_tolerance(workers):
    found = workers(2).run(verified, mlp().float(), cross_entropy, _float32(labelled(8)), None, None, sgd)[0]
    assert found.equal
    assert found.dtype == "float32"
    assert 0 <= found.gradient < 1e-5


def _float32(batch):
    return [(batch[0].float(), batch[1])]


def test_a_sum_that_poses_as_a_mean_is_not_equal(workers):
    """Each of two equal shares counts half, so the gradient is half of the sum's."""
    found = workers(2).run(verified, mlp(), sum_of_squares, [labelled(8)], None, None, sgd)[0]
    assert not found.equal
    assert found.gradient == pytest.approx(0.5)
    assert found.worst_gradient in dict(mlp().named_parameters())


class Shifted(nn.Module):
    """Adds one number to all logits: its gradient is zero in exact arithmetic, because softmax does not see it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.shift = nn.Parameter(torch.ones(1))

    def forward(self, values):
        return self.layer(values) + self.shift


def test_a_gradient_of_rounding_only_is_left_out_and_named(workers):
    torch.manual_seed(0)
    batches = [(labelled(40, seed)[0].float() * 100, labelled(40, seed)[1]) for seed in range(3)]
    found = workers(2).run(verified, Shifted(), cross_entropy, batches, None, None, adam)[0]
    assert found.equal
    assert found.notes == ("gradient zero but for rounding, left out of the parameters' distance: shift",)


def twice_decayed(model, batches):
    """A step whose parallel side decays the weights twice as much as it should."""
    job = Job(model=model, optimizer=torch.optim.AdamW(model.parameters(), weight_decay=0.1), loss=cross_entropy)
    proof = Proof(job, strategy(8), role=Role(rank=dist.get_rank(), world_size=2, steps=3))
    for batch in batches:
        proof.collect(batch)
    for settings in proof._settings:
        settings[0]["weight_decay"] *= 2
    return proof.conclude()


def test_a_small_error_of_the_update_is_found_by_the_parameters(workers):
    found = workers(2).run(twice_decayed, mlp().float(), _float32(labelled(8)) * 3)[0]
    assert not found.equal
    assert found.parameters > found.parameter_tolerance
    assert found.losses[0] == pytest.approx(found.reference_losses[0])


def test_dropout_is_off_on_both_sides_and_the_proof_says_so(workers):
    torch.manual_seed(1)
    found = workers(2).run(verified, Dropping().double(), cross_entropy, [labelled(6)] * 2, None, None, sgd)[0]
    assert found.equal
    assert found.notes == (
        "random operations (dropout) were off on both sides, because each worker draws its own numbers",
    )


def test_batch_normalization_is_compared_with_its_statistics(workers):
    torch.manual_seed(1)
    batch = (torch.randn(5, 2, 6, 6), torch.randint(3, (5,)))
    assert workers(2).run(verified, Normed(), cross_entropy, [batch] * 3, None, torch.float64, sgd)[0].equal


def test_a_loss_that_uses_another_model_is_found():
    outside = mlp()
    with pytest.raises(LossError, match="the one-device program has no gradient"):
        mw.verify(mlp(), sgd(outside), lambda _model, batch: cross_entropy(outside, batch), [labelled(4)])


def in_role(folder, loss, schedule):
    model = mlp()
    optimizer = sgd(model)
    role = Role(kind="verify", rank=dist.get_rank(), world_size=2, folder=folder, steps=2)
    proof = Proof(Job(model=model, optimizer=optimizer, loss=loss), strategy(6), role=role)
    try:
        for seed in range(4):
            proof.step(labelled(6, seed))
            if schedule:
                optimizer.param_groups[0]["lr"] *= 0.1
    except NotEqualError as error:
        return str(error)
    except SystemExit as end:
        return end.code, proof.num_steps
    return "went on"


def test_the_role_ends_the_script_after_its_steps_and_follows_a_schedule(workers, tmp_path):
    assert workers(2).run(in_role, tmp_path, cross_entropy, True) == [(0, 2)] * 2
    found = read_toml(Verification, tmp_path / "verification.toml")
    assert (found.equal, found.steps) == (True, 2)


def test_the_role_ends_with_an_error_that_has_the_numbers(workers, tmp_path):
    first, second = workers(2).run(in_role, tmp_path, sum_of_squares, False)
    assert first == second
    assert first.startswith("the plan computes something else than one device: loss off by ")
    assert "has to be returned as (total, weight)" in first
    assert not read_toml(Verification, tmp_path / "verification.toml").equal


def test_nothing_collected_is_nothing_verified():
    model = mlp()
    with pytest.raises(UsageError, match="no step to verify"):
        mw.verify(model, sgd(model), cross_entropy, [])


def test_distances_are_relative_to_the_whole():
    """‖(3, 4) - 0‖ = 5 and ‖0 - 12‖ = 12: 13 together, of a scale of 26."""
    found = distance({"a": torch.tensor([3.0, 4.0])}, {"a": None, "b": torch.tensor([12.0])}, scale=26.0)
    assert dataclasses.astuple(found) == (0.5, "b", 12 / 26)
