"""What `mw.parallel` accepts, what it refuses, and the plain step that it gives under `python`."""

import copy
import subprocess
import sys

import pytest
import torch
from run_jobs import cross_entropy, labelled, mlp, plain_steps, strategy
from torch import nn

import meshwright as mw
from meshwright.cost import MemoryBreakdown, Prediction, TimeBreakdown
from meshwright.errors import BatchError, DocumentError, LossError, PlanError, UsageError
from meshwright.plan import write_plan


class Closing(torch.optim.Optimizer):
    """Needs a closure."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self, closure):
        return closure()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def plan_for(num_workers, model="Sequential"):
    prediction = Prediction(time=TimeBreakdown(forward=0.01), low=0.01, high=0.02, memory=MemoryBreakdown())
    return mw.Plan(model=model, strategy=strategy(4, num_workers), prediction=prediction)


def test_the_step_of_plain_python_is_the_loop_of_plain_python(capsys):
    model, batches = mlp(), [labelled(4, seed) for seed in range(3)]
    wanted, expected = plain_steps(copy.deepcopy(model), cross_entropy, batches, clip=0.2)
    step = mw.parallel(model, sgd(model), cross_entropy, clip=0.2)
    values = [step(batch) for batch in step.batches(batches)]
    assert [value.item() for value in values] == wanted
    assert not values[0].requires_grad
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert (step.plan, step.is_main, step.model, step.steps) == (None, True, model, 3)
    assert capsys.readouterr().err.startswith("meshwright: one worker, with your own settings; `meshwright run ")


def test_a_scheduler_goes_on_working():
    model = mlp()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    step = mw.parallel(model, optimizer, cross_entropy)
    step(labelled(4))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


class WithLoss(nn.Module):
    """Computes its own loss, as the models of transformers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, values, labels):
        loss = nn.functional.cross_entropy(self.layer(values), labels)
        return type("Output", (), {"loss": loss, "logits": None})()


def test_without_a_loss_the_model_computes_it():
    model = WithLoss().double()
    values, labels = labelled(4)
    expected = model(values, labels).loss.item()
    assert mw.parallel(model, sgd(model))({"values": values, "labels": labels}).item() == expected
    with pytest.raises(LossError, match=r"the loss has shape \[4, 3\]; it has to be a scalar"):
        mw.parallel(model.layer, sgd(model.layer))(values)


class WithoutLoss(nn.Linear):
    """Returns something that holds no loss."""

    def forward(self, values):
        return {"logits": super().forward(values)}


def test_a_model_that_computes_no_loss_needs_one():
    model = WithoutLoss(5, 3).double()
    with pytest.raises(LossError, match="WithoutLoss gave a dict without a loss"):
        mw.parallel(model, sgd(model))(labelled(4)[0])


def test_a_plan_of_one_worker_is_followed(tmp_path):
    model = mlp()
    write_plan(plan_for(1), tmp_path / "plan.toml")
    step = mw.parallel(model, sgd(model), cross_entropy, plan=tmp_path / "plan.toml")
    step(labelled(4))
    assert step.plan == plan_for(1)


@pytest.mark.parametrize(
    ("plan", "fact"),
    [
        (plan_for(2), "the plan is for 2 workers, and 1 were started"),
        (plan_for(1, "GPT"), "the plan is for GPT, and the script trains Sequential"),
    ],
)
def test_a_plan_for_something_else_is_refused(plan, fact):
    model = mlp()
    with pytest.raises(PlanError, match=fact):
        mw.parallel(model, sgd(model), cross_entropy, plan=plan)(labelled(4))


def test_choices_that_have_no_effect_are_named(capsys):
    model = mlp()
    mw.parallel(model, sgd(model), cross_entropy, plan={"workers": 2})
    assert capsys.readouterr().err.endswith(" here; the choices in plan= and allow= take effect there only\n")


def test_misspelt_pins_and_allowances_get_a_suggestion():
    model = mlp()
    with pytest.raises(DocumentError, match="unknown key 'worker'") as caught:
        mw.parallel(model, sgd(model), plan={"worker": 2})
    assert caught.value.cause == "did you mean 'workers'?"
    with pytest.raises(UsageError, match="allow has 'precison'") as caught:
        mw.parallel(model, sgd(model), allow={"precison"})
    assert caught.value.cause == "did you mean 'precision'?"


def test_what_cannot_be_trained_is_refused():
    model = mlp()
    with pytest.raises(UsageError, match=r"the model is a list, not a torch\.nn\.Module"):
        mw.parallel([model], sgd(model))
    with pytest.raises(UsageError, match=r"mw\.parallel got no optimizer"):
        mw.parallel(model, None, cross_entropy)
    with pytest.raises(UsageError, match="LBFGS needs a closure"):
        mw.parallel(model, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(UsageError, match="Closing needs a closure"):
        mw.parallel(model, Closing(model.parameters()))
    with pytest.raises(UsageError, match="the SGD holds none of the parameters of Sequential"):
        mw.parallel(model, sgd(mlp()))
    with pytest.raises(UsageError, match="clip is 0"):
        mw.parallel(model, sgd(model), clip=0)


def test_a_loss_that_is_no_number_stops_before_the_update():
    model = mlp()
    step = mw.parallel(model, sgd(model), cross_entropy)
    values, labels = labelled(4)
    step((values, labels))
    before = model[0].weight.clone()
    with pytest.raises(LossError, match="the loss is nan in step 2"):
        step((values * float("nan"), labels))
    assert torch.equal(model[0].weight, before)


def test_a_weight_of_zero_is_a_loss_that_is_no_number():
    model = mlp()
    step = mw.parallel(model, sgd(model), lambda model, batch: (model(batch[0]).sum() * 0, torch.tensor(0)))
    with pytest.raises(LossError, match="the loss is nan in step 1"):
        step(labelled(4))


def test_three_values_are_no_loss():
    model = mlp()
    step = mw.parallel(model, sgd(model), lambda model, batch: (model(batch[0]).sum(), 1, 2))
    with pytest.raises(LossError, match="the loss function returned 3 values"):
        step(labelled(4))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_empty_batch_is_refused(accumulation):
    model = mlp()
    plan = mw.Plan(
        model="Sequential",
        strategy=strategy(4, 1, accumulation=accumulation),
        prediction=plan_for(1).prediction,
    )
    step = mw.parallel(model, sgd(model), cross_entropy, plan=plan)
    with pytest.raises(BatchError, match="a batch of size 0"):
        step((torch.zeros(0, 5).double(), torch.zeros(0).long()))


def test_a_checkpoint_continues_where_it_was(tmp_path):
    batches = [labelled(4, seed) for seed in range(4)]
    model = mlp()
    step = mw.parallel(model, torch.optim.AdamW(model.parameters()), cross_entropy)
    values = [step(batch).item() for batch in batches[:2]]
    step.save(tmp_path / "last")
    step.save(tmp_path / "last")
    values += [step(batch).item() for batch in batches[2:]]

    other = mlp()
    nn.init.zeros_(other[0].weight)
    again = mw.parallel(other, torch.optim.AdamW(other.parameters()), cross_entropy)
    again.load(tmp_path / "last")
    assert [again(batch).item() for batch in batches[2:]] == values[2:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]
    with pytest.raises(UsageError, match="after 2 steps"):
        again.load(tmp_path / "last")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    model = mlp()
    step = mw.parallel(model, sgd(model), cross_entropy)
    with pytest.raises(UsageError, match="no checkpoint in"):
        step.load(tmp_path / "none")
    step.save(tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"damaged: model\.safetensors is not what was saved"):
        step.load(tmp_path / "one")


def test_importing_loads_no_torch_and_the_function_keeps_its_name():
    code = (
        "import sys, meshwright as mw\n"
        "assert 'torch' not in sys.modules\n"
        "mw.Plan, mw.Verification, mw.MeshwrightError, mw.Cluster, mw.Graph, mw.Prediction\n"
        "assert 'torch' not in sys.modules\n"
        "import meshwright.parallel\n"
        "assert callable(mw.parallel) and mw.parallel.__name__ == 'parallel', mw.parallel\n"
        "from meshwright.parallel import apply\n"
        "assert apply.__module__.startswith('meshwright.parallel')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_public_names_are_these():
    assert mw.__all__ == [
        "Cluster", "Graph", "MeshwrightError", "Plan", "Prediction", "Step", "Verification", "__version__", "parallel",
        "verify",
    ]  # fmt: skip
    assert all(hasattr(mw, name) for name in mw.__all__)
    assert dir(mw) == sorted(mw.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'paralel'"):
        mw.paralel  # noqa: B018
