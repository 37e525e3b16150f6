"""Checkpoints of jobs whose optimizer, gradients or parameters are in shards."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from run_jobs import Tied, strategy

from meshwright.cost import Compression, Strategy
from meshwright.errors import UsageError
from meshwright.run import Engine, Job, _checkpoint_files
from meshwright.run._checkpoint import load, save

SHARDINGS = ("none", "optimizer", "gradients", "parameters")


def _job(seed: int) -> Job:
    torch.manual_seed(seed)
    model = Tied().double()
    head = [model.embed.weight]
    groups = [{"params": head, "weight_decay": 0.0}, {"params": list(model.body.parameters()), "lr": 3e-2}]
    return Job(model=model, optimizer=torch.optim.AdamW(groups, lr=1e-2), loss=_loss)


def _loss(model, tokens):
    return torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())


def _batch(step: int) -> torch.Tensor:
    return torch.randint(11, (6, 4), generator=torch.Generator().manual_seed(step))


def _train(engine: Engine, steps: range) -> list[float]:
    return [engine.step(_batch(step)).item() for step in steps]


def _strategy(sharding: str, shards: tuple[int, ...]) -> Strategy:
    return replace(strategy(6, dist.get_world_size(), sharding=sharding), shards=shards)


def _save_and_go_on(folder, sharding: str, shards: tuple[int, ...] = ()) -> list[float]:
    job = _job(0)
    engine = Engine(job, _strategy(sharding, shards), rank=dist.get_rank())
    _train(engine, range(2))
    save(job, engine, folder)
    losses = _train(engine, range(2, 4))
    engine.close()
    return losses


def _load_and_go_on(folder, sharding: str, shards: tuple[int, ...] = ()) -> list[float]:
    job = _job(5)
    load(job, None, folder)
    engine = Engine(job, _strategy(sharding, shards), rank=dist.get_rank())
    losses = _train(engine, range(2, 4))
    save(job, engine, folder.parent / "again")
    engine.close()
    return losses


@pytest.mark.parametrize(("sharding", "other"), list(zip(SHARDINGS, SHARDINGS[2:] + SHARDINGS[:2], strict=True)))
def test_a_checkpoint_goes_on_under_another_strategy(workers, tmp_path, sharding, other):
    expected = workers(2).run(_save_and_go_on, tmp_path / "saved", sharding)[0]
    job = _job(7)
    load(job, None, tmp_path / "saved")
    assert _train(Engine(job), range(2, 4)) == pytest.approx(expected, abs=1e-12)
    for losses in workers(3).run(_load_and_go_on, tmp_path / "saved", other):
        assert losses == pytest.approx(expected, abs=1e-12)
    last = _job(8)
    load(last, None, tmp_path / "again")
    assert torch.allclose(last.model.embed.weight, job.model.embed.weight, rtol=0, atol=1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "saved"]


def test_a_checkpoint_goes_on_with_shards_of_other_sizes(workers, tmp_path):
    expected = workers(2).run(_save_and_go_on, tmp_path / "saved", "parameters", (1, 3))[0]
    for losses in workers(3).run(_load_and_go_on, tmp_path / "saved", "parameters", (2, 0, 1)):
        assert losses == pytest.approx(expected, abs=1e-12)


def _unwritable(folder) -> str:
    job = _job(0)
    engine = Engine(job, strategy(6, 2), rank=dist.get_rank())
    (folder / "file").touch()
    with pytest.raises(UsageError) as raised:
        save(job, engine, folder / "file" / "saved")
    loss = engine.step(_batch(0)).item()
    engine.close()
    return f"{raised.value} {loss > 0}"


def test_every_worker_hears_why_nothing_was_saved(workers, tmp_path):
    for message in workers(2).run(_unwritable, tmp_path):
        assert "the checkpoint was not saved" in message
        assert message.endswith("True")


def test_large_state_is_written_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint_files, "LARGEST_FILE", 600)
    job = _job(0)
    engine = Engine(job)
    _train(engine, range(1))
    save(job, engine, tmp_path / "saved")
    assert (tmp_path / "saved" / "optimizer.00003.safetensors").is_file()
    again = _job(3)
    load(again, None, tmp_path / "saved")
    assert torch.equal(again.model.embed.weight, job.model.embed.weight)
    assert _train(Engine(again), range(1, 3)) == _train(engine, range(1, 3))


def _lossy_engine(seed: int, carried: dict, method: str) -> Engine:
    job = replace(_job(seed), allow=("compression",), carried=carried)
    plan = strategy(6, dist.get_world_size())
    compression = Compression(method=method, block=64, share=0.1, rank=1)
    return Engine(job, replace(plan, exchange=replace(plan.exchange, compression=compression)), rank=dist.get_rank())


def _left_out(engine: Engine) -> dict[str, torch.Tensor]:
    return dict(engine.placed.carried())


def _save_compressed(folder, method: str) -> dict[str, torch.Tensor]:
    engine = _lossy_engine(0, {}, method)
    _train(engine, range(3))
    save(engine.job, engine, folder)
    left = _left_out(engine)
    engine.close()
    return left


def _load_compressed(folder, method: str) -> dict[str, torch.Tensor]:
    engine = _lossy_engine(5, load(_job(5), None, folder).carried, method)
    left = _left_out(engine)
    _train(engine, range(3, 5))
    engine.close()
    return left


@pytest.mark.parametrize("method", ["int8", "sign", "powersgd", "random_k"])
def test_what_compression_has_left_out_is_sent_after_all(workers, tmp_path, method):
    """The sum over the workers is what counts, and three workers have the two workers' sum."""
    before = workers(2).run(_save_compressed, tmp_path / "saved", method)[0]
    after = workers(3).run(_load_compressed, tmp_path / "saved", method)[0]
    assert before.keys() == after.keys()
    assert any(key.startswith("carried.") and value.abs().max() > 0 for key, value in before.items())
    for key, value in before.items():
        assert torch.allclose(after[key], value, rtol=1e-5, atol=1e-9), key
