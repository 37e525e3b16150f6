"""Split models in everything that runs steps: the proof, checkpoints, trials, loaders."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import meshwright as mw
from meshwright.cost import Mesh, Pipeline
from meshwright.run import Engine
from meshwright.run._checkpoint import load, save
from meshwright.run._heat import run_heat
from meshwright.run._loader import shared

sys.path.append(str(Path(__file__).parent.parent / "parallel"))
from hybrid_jobs import Case, batch, job, strategy

STAGES = (("pipeline", Pipeline(cuts=("layers.1",))),)
SPLIT = Case(mesh=Mesh(dp_replicate=2, tp=2), shares=(2, 2), sizes=(4, 3))
SHARDED = Case(mesh=Mesh(pp=2, dp_shard=2), sharding="parameters", shares=(2, 2), accumulation=2, choices=STAGES)
OWNED = Case(mesh=Mesh(pp=2, dp_shard=2), sharding="optimizer", shares=(2, 2), accumulation=2, choices=STAGES)


def _verified() -> tuple[bool, float]:
    one = job(SPLIT, 0)
    found = mw.verify(
        one.model, one.optimizer, one.loss, [batch(SPLIT, step) for step in range(2)], plan=strategy(SPLIT), clip=0.1
    )
    return found.equal, found.gradient


def test_a_split_model_is_proven_equal(workers):
    for equal, gradient in workers(4).run(_verified):
        assert equal
        assert gradient < 1e-12


def _losses(engine: Engine, case: Case, steps: range) -> list[float]:
    return [engine.step(batch(case, step)).item() for step in steps]


def _save_and_go_on(folder: Path, case: Case) -> list[float]:
    one = job(case, 0)
    engine = Engine(one, strategy(case), rank=dist.get_rank())
    _losses(engine, case, range(2))
    save(one, engine, folder)
    losses = _losses(engine, case, range(2, 4))
    engine.close()
    return losses


def _load_and_go_on(folder: Path, case: Case) -> list[float]:
    one = job(case, 3)
    load(one, None, folder)
    engine = Engine(one, strategy(case), rank=dist.get_rank())
    losses = _losses(engine, case, range(2, 4))
    engine.close()
    return losses


@pytest.mark.parametrize(("case", "other"), [(SHARDED, SPLIT), (SPLIT, OWNED), (OWNED, SHARDED)])
def test_a_checkpoint_of_a_split_model_goes_on_under_another_split(workers, tmp_path, case, other):
    expected = workers(4).run(_save_and_go_on, tmp_path / "saved", Case(mesh=case.mesh, **_rest(case)))[0]
    one = job(case, 7)
    load(one, None, tmp_path / "saved")
    alone = Case(mesh=case.mesh, **_rest(case))
    assert _losses(Engine(one), alone, range(2, 4)) == pytest.approx(expected, abs=1e-12)
    for losses in workers(4).run(_load_and_go_on, tmp_path / "saved", Case(mesh=other.mesh, **_rest(other))):
        assert losses == pytest.approx(expected, abs=1e-12)


def _rest(case: Case) -> dict:
    return {
        "sharding": case.sharding,
        "shares": case.shares,
        "accumulation": case.accumulation,
        "choices": case.choices,
    }


def _heats() -> list[str]:
    one, cases = job(SPLIT, 0), (SPLIT, SHARDED, SPLIT)
    heats = [
        run_heat(one, batch(case, 0), strategy(case), rank=dist.get_rank(), group=None, duration=0.2) for case in cases
    ]
    assert all(len(heat.durations) >= 2 for heat in heats), heats
    whole = all(tensor.is_contiguous() and tensor.shape for tensor in one.model.layers.parameters())
    return [*(heat.failure for heat in heats), "" if whole else "the job was changed"]


def test_split_models_are_tried_one_after_another(workers):
    for failures in workers(4).run(_heats):
        assert not any(failures)


class _Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, targets = batch(Case(mesh=Mesh(), shares=(10,)), 0)
        return tokens[index], targets[index]


def _loaded() -> list[float]:
    one = job(SPLIT, 0)
    engine = Engine(one, strategy(SPLIT), rank=dist.get_rank())
    expected: list[tuple[int, int]] = []
    loader = shared(
        DataLoader(_Rows(), batch_size=4, shuffle=True),
        plan=engine.strategy.batch,
        rank=engine.data_rank,
        expect=lambda _, count, size: expected.append((count, size)),
    )
    losses = []
    torch.manual_seed(0)
    for share in loader:
        count, size = expected[-1]
        losses.append(engine.step_share(share, count=count, size=size).item())
    engine.close()
    return losses


def test_each_worker_loads_the_share_of_its_data_rank(workers):
    one = job(SPLIT, 0)
    engine = Engine(one)
    torch.manual_seed(0)
    wanted = [engine.step(tuple(rows)).item() for rows in DataLoader(_Rows(), batch_size=4, shuffle=True)]
    for losses in workers(4).run(_loaded):
        assert losses == pytest.approx(wanted, abs=1e-12)


def _whole_beside_one_device(case: Case) -> tuple[float, bool, str]:
    engine, reference = Engine(job(case, 0), strategy(case), rank=dist.get_rank()), Engine(job(case, 0))
    _losses(engine, case, range(2))
    _losses(reference, case, range(2))
    inputs = batch(case, 1)[0]
    whole = engine.placed.whole_model()
    with torch.no_grad():
        found, expected = whole(inputs), reference.job.model(inputs)
    refusal = ""
    try:
        engine.job.model(inputs)
    except mw.MeshwrightError as error:
        refusal = str(error)
    _losses(engine, case, range(1, 2))
    tied = whole.head.weight is whole.embedding.weight
    engine.close()
    return float((found - expected).abs().max()), tied, refusal


@pytest.mark.parametrize("case", [SPLIT, SHARDED, OWNED], ids=["tensor", "sharded-stages", "owned-stages"])
def test_the_whole_model_can_be_asked_for_and_its_parts_cannot_be_called(workers, case):
    for distance, tied, refusal in workers(4).run(_whole_beside_one_device, case):
        assert distance < 1e-10
        assert tied
        assert "was called, and this worker holds a part of it only" in refusal
        assert "step.model" in refusal
