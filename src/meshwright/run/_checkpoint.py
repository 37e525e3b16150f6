"""A checkpoint that is whole, or not there: model, optimizer, random numbers, step count, for any number of workers.

folder/
  manifest.json        format, steps, and the SHA-256 of each file; written into place last
  model.safetensors    the model's whole state
  optimizer.safetensors  the optimizer's tensors, `<number of the parameter>.<name>`
  settings.json        the optimizer's groups, and its state that is no tensor
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from meshwright.errors import UsageError
from meshwright.run._engine import Engine
from meshwright.run._job import Job

FORMAT = "meshwright-checkpoint-1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What is stored.

    Args:
        model: the model's whole state.
        tensors: of the optimizer.
        settings: of the optimizer, and whatever else is no tensor.
    """

    model: dict[str, Tensor]
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def save(job: Job, engine: Engine | None, folder: str | os.PathLike[str]) -> None:
    """Stores a checkpoint; every worker calls it, rank 0 writes.

    Raises:
        UsageError: the optimizer's state is in shards.
    """
    _check_sharding(engine)
    model = job.model.state_dict() if engine is None else engine.placed.full_state_dict()
    if engine is None or engine.rank == 0:
        _write(_state(job, engine, model), Path(folder))
    if engine is not None and engine.num_workers > 1:
        dist.barrier()


def load(job: Job, engine: Engine | None, folder: str | os.PathLike[str]) -> None:
    """Puts a checkpoint into a job that has not been stepped; every worker calls it.

    Raises:
        UsageError: steps have been run, or no whole checkpoint is there.
    """
    if engine is not None:
        raise UsageError(
            f"step.load({str(folder)!r}) after {engine.steps} steps",
            cause="the plan has been applied to the model by then",
            alternatives=["load right after mw.parallel(…)"],
        )
    path = Path(folder)
    _check(path)
    job.model.load_state_dict(load_file(path / "model.safetensors"))
    settings = json.loads((path / "settings.json").read_text(encoding="utf-8"))
    tensors = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop("random"))
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in settings["state"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    job.optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})


def _check_sharding(engine: Engine | None) -> None:
    if engine is not None and engine.strategy is not None and engine.strategy.sharding != "none":
        raise UsageError(
            f"step.save with {engine.strategy.sharding} in shards is not there yet",
            cause="each worker holds only its part of the optimizer's state",
            alternatives=["plan with sharding=none", "torch.save(step.model.state_dict(), …) for the model alone"],
            command="meshwright run SCRIPT --set sharding=none",
        )


def _state(job: Job, engine: Engine | None, model: dict[str, Tensor]) -> _State:
    document = job.optimizer.state_dict()
    tensors = {"random": torch.get_rng_state()}
    rest: dict[str, dict[str, Any]] = {}
    for number, values in document["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                rest.setdefault(str(number), {})[name] = value
    settings = {"groups": document["param_groups"], "state": rest, "steps": 0 if engine is None else engine.steps}
    return _State(model=_untied(model), tensors=tensors, settings=settings)


def _untied(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own storage, as safetensors wants them: tied ones are stored once for every name."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.items()}


def _write(state: _State, folder: Path) -> None:
    """Writes beside the target, and renames: an earlier checkpoint stays until the new one is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    save_file(state.model, fresh / "model.safetensors")
    save_file(state.tensors, fresh / "optimizer.safetensors")
    (fresh / "settings.json").write_text(json.dumps(state.settings), encoding="utf-8")
    hashes = {file.name: _digest(file) for file in sorted(fresh.iterdir())}
    manifest = {"format": FORMAT, "steps": state.settings["steps"], "sha256": hashes}
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _check(folder: Path) -> None:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"no checkpoint in {folder}", cause=f"{path} is not there")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise UsageError(
                f"the checkpoint in {folder} is damaged: {name} is not what was saved",
                cause="its SHA-256 differs from the manifest's, or the file is gone",
                alternatives=["an earlier checkpoint"],
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
