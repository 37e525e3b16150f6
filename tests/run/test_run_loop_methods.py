"""Hand-written loops under every method but pipeline, against the same loop on one device."""

import copy
import json

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import meshwright as mw
from meshwright.errors import BatchError, PlanError, UsageError
from zoo import zoo_model

WIDTH, LENGTH, VOCABULARY = 8, 6, 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(x)))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, tokens, *, extra=False):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return {"logits": self.head(x) * self.scale, "hidden": (x, None), "extra": extra}


def tokens(step, size):
    return torch.randint(VOCABULARY, (size, LENGTH), generator=torch.Generator().manual_seed(step))


def loop(model, optimizer, clip, steps=(4, 4, 3)):
    """Two backwards a step, a loss that is no mean over the examples, and a last batch that has no equal halves."""
    norms = []
    for step, size in enumerate(steps):
        optimizer.zero_grad()
        for half in range(2):
            x = tokens(10 * step + half, size)
            output = model(x, extra=True)
            assert output["logits"].shape == (size, LENGTH, VOCABULARY)
            assert output["extra"] is True
            loss = F.cross_entropy(output["logits"].flatten(0, 1), x.roll(1, 1).flatten())
            (loss + output["hidden"][0].square().sum().sqrt()).backward()
        norms.append(float(clip(model)))
        optimizer.step()
    return norms


def by_torch(model):
    return nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)


def by_model(model):
    return model.clip_grad_norm_(0.5)


def compare(plan, clip, before):
    """Largest distances of parameters, of the optimizer's state and of norms from those of one device."""
    torch.manual_seed(0)
    alone = Decoder().double()
    torch.manual_seed(dist.get_rank())
    own = Decoder().double()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-2) if before else None
    model = mw.parallel(own, plan=plan)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    wanted = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    norms = loop(model, optimizer, {"torch": by_torch, "model": by_model}[clip])
    expected = loop(alone, wanted, by_torch)
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in own.parameters())
    found, state = model.state_dict(), optimizer.state_dict()["state"]
    with torch.no_grad():
        evaluated = model.eval()(tokens(99, 5))["logits"] - alone.eval()(tokens(99, 5))["logits"]
    return {
        "parameters": max(float((found[key] - value).abs().max()) for key, value in alone.state_dict().items()),
        "state": max(
            float((state[number][key] - value).abs().max())
            for number, values in wanted.state_dict()["state"].items()
            for key, value in values.items()
        ),
        "norms": max(abs(one - other) for one, other in zip(norms, expected, strict=True)),
        "evaluated": float(evaluated.abs().max()),
        "held": held / sum(p.numel() for p in alone.parameters()),
    }


CASES = [
    ({"tensor": 2}, "torch", False),
    ({"tensor": 2, "sequence": "split"}, "model", True),
    ({"context": 2}, "torch", True),
    ({"sharding": "optimizer", "shard": 2}, "torch", True),
    ({"sharding": "gradients", "shard": 2}, "model", False),
    ({"sharding": "parameters"}, "model", True),
]
FOUR = [
    ({"tensor": 2, "data": 2}, "torch", True),
    ({"tensor": 2, "sharding": "parameters"}, "model", True),
    ({"tensor": 2, "context": 2}, "model", False),
    ({"context": 2, "sharding": "gradients", "shard": 2}, "model", True),
]


@pytest.mark.parametrize(("plan", "clip", "before"), CASES, ids=[json.dumps(case[0]) for case in CASES])
def test_a_loop_on_two_workers_equals_one_device(workers, plan, clip, before):
    _check(workers(2).run(compare, plan, clip, before), plan)


@pytest.mark.parametrize(("plan", "clip", "before"), FOUR, ids=[json.dumps(case[0]) for case in FOUR])
def test_a_loop_under_two_methods_equals_one_device(workers, plan, clip, before):
    _check(workers(4).run(compare, plan, clip, before), plan)


def _check(results, plan):
    for found in results:
        assert found["parameters"] < 1e-9
        assert found["state"] < 1e-9
        assert found["norms"] < 1e-9
        assert found["evaluated"] < 1e-9
        assert (found["held"] < 0.7) == ("tensor" in plan or plan.get("sharding") == "parameters")


def experts(plan):
    """A mixture of transformers, by its logits."""
    model, _, batch = zoo_model("mixtral").make()
    model.config.use_cache = False
    alone, _, _ = zoo_model("mixtral").make()
    alone.config.use_cache = False
    shared = mw.parallel(model, plan=plan)
    for each, optimizer in (
        (shared, torch.optim.SGD(model.parameters(), lr=0.5)),
        (alone, torch.optim.SGD(alone.parameters(), lr=0.5)),
    ):
        for _ in range(2):
            optimizer.zero_grad()
            logits = each(input_ids=batch["input_ids"]).logits
            F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
            nn.utils.clip_grad_norm_(each.parameters(), 0.3)
            optimizer.step()
    found, held = shared.state_dict(), sum(p.numel() for p in model.parameters())
    distance = max(float((found[key] - value).abs().max()) for key, value in alone.state_dict().items())
    return distance, held < sum(p.numel() for p in alone.parameters())


def test_a_loop_over_spread_experts_equals_one_device(workers):
    for distance, is_part in workers(2).run(experts, {"expert": 2}):
        assert distance < 1e-6
        assert is_part


def statistics():
    """Batch normalization over the whole batch, and a table of the optimizer's own learning rates."""
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).double()
    own = copy.deepcopy(alone)
    model = mw.parallel(own, plan={"tensor": 2, "data": 2})
    images = torch.randn(6, 2, 6, 6, dtype=torch.float64)
    for each in (model, alone):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            each(images).square().mean().backward()
            optimizer.step()
    found = model.state_dict()
    return max(float((found[key] - value).abs().max()) for key, value in alone.state_dict().items())


def test_batch_normalization_in_a_loop_counts_the_whole_batch(workers):
    assert max(workers(4).run(statistics)) < 1e-9


def resumed():
    """An optimizer whose state was loaded whole, before the first step."""
    torch.manual_seed(0)
    first, alone = Decoder().double(), Decoder().double()
    alone.load_state_dict(first.state_dict())
    wanted = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    loop(alone, wanted, by_torch)
    state, weights = copy.deepcopy(wanted.state_dict()), copy.deepcopy(alone.state_dict())
    first.load_state_dict(weights)
    optimizer = torch.optim.AdamW(first.parameters(), lr=1e-2)
    optimizer.load_state_dict(state)
    model = mw.parallel(first, plan={"tensor": 2})
    loop(model, optimizer, by_model)
    loop(alone, wanted, by_torch)
    found = model.state_dict()
    return max(float((found[key] - value).abs().max()) for key, value in alone.state_dict().items())


def test_a_loop_goes_on_from_whole_state(workers):
    assert max(workers(2).run(resumed)) < 1e-9


def refused():
    """What would be wrong, and what says so."""
    model = Decoder().double()
    with pytest.raises(UsageError, match=r"pipeline = 2 with mw.parallel\(model\), a hand-written loop"):
        mw.parallel(model, plan={"pipeline": 2})
    with pytest.raises(
        PlanError, match=r"2 workers were started, and tensor × context × data × shard is 3 × 1 × 0 × 1"
    ):
        mw.parallel(model, plan={"tensor": 3})
    split = mw.parallel(model, plan={"tensor": 2})
    adafactor = torch.optim.Adafactor(model.parameters())
    split(tokens(0, 4))["logits"].square().mean().backward()
    gradient = model.layers[0].up.weight.grad
    with pytest.raises(
        UsageError, match=r"norm of the gradient of layers.0.up.weight, of which this worker has a part"
    ):
        gradient.norm()
    with pytest.raises(PlanError, match="Adafactor cannot step parts of parameters"):
        adafactor.step()
    with pytest.raises(UsageError, match="Decoder was called, and this worker holds a part of it only"):
        model(tokens(0, 4))
    with pytest.raises(UsageError, match="load_state_dict after the model was split"):
        split.load_state_dict({})
    assert split.train() is split
    owned = mw.parallel(Decoder(), plan={"sharding": "gradients", "shard": 2})
    owned(tokens(0, 4))["logits"].square().mean().backward()
    with pytest.raises(UsageError, match="of which this worker has a part only"):
        by_torch(owned)
    with pytest.raises(BatchError, match="the workers were given different batches"):
        mw.parallel(Decoder())(tokens(dist.get_rank(), 4))


def test_what_a_loop_cannot_do_is_refused(workers):
    workers(2).run(refused)
