"""The files of a checkpoint: written beside their place, renamed into it when all are there, checked when read.

folder/
  manifest.json          format, steps, and the SHA-256 of each file
  model.safetensors      the model's whole state; what does not fit one file goes on in model.00002.safetensors, …
  optimizer.safetensors  the optimizer's whole tensors, `<number of the parameter>.<name>`; likewise
  exchange.safetensors   what compressed gradients have left out so far, `<kind>.<parameter>`, summed over the workers
  settings.json          the optimizer's groups, and its state that is no tensor
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from meshwright.errors import UsageError
from meshwright.units import GIB, Bytes

FORMAT = "meshwright-checkpoint-1"
MANIFEST = "manifest.json"
# Tensors wait in memory until so many are there, and are then written to a file.
LARGEST_FILE: Bytes = GIB // 2


class CheckpointWriter:
    """Writes a checkpoint; an earlier one in the same place stays until the new one is whole.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))

    def tensors(self, kind: str, named: Iterable[tuple[str, Tensor]]) -> None:
        """Writes tensors to one file or several, holding no more of them than one file has.

        Args:
            kind: first part of the files' names.
            named: taken one by one.
        """
        waiting: dict[str, Tensor] = {}
        number = 1
        for name, tensor in named:
            if waiting and sum(value.nbytes for value in waiting.values()) + tensor.nbytes > LARGEST_FILE:
                save_file(waiting, self._fresh / _file_name(kind, number))
                waiting, number = {}, number + 1
            # of its own storage: tied tensors are stored once for every name
            waiting[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if waiting:
            save_file(waiting, self._fresh / _file_name(kind, number))

    def finish(self, settings: dict[str, Any]) -> None:
        """Writes the rest, and puts the folder into its place."""
        (self._fresh / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        hashes = {file.name: _digest(file) for file in sorted(self._fresh.iterdir())}
        manifest = {"format": FORMAT, "steps": settings["steps"], "sha256": hashes}
        (self._fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        old = self._folder.with_name(f".{self._folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            os.replace(self._folder, old)
        os.replace(self._fresh, self._folder)
        shutil.rmtree(old, ignore_errors=True)

    def abandon(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self._fresh, ignore_errors=True)


class CheckpointReader:
    """A checkpoint that is whole.

    Args:
        folder: of the checkpoint.

    Raises:
        UsageError: it is not there, or not what was saved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / MANIFEST
        if not path.is_file():
            raise UsageError(f"no checkpoint in {folder}", cause=f"{path} is not there")
        self._names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        for name, digest in self._names.items():
            if not (folder / name).is_file() or _digest(folder / name) != digest:
                raise UsageError(
                    f"the checkpoint in {folder} is damaged: {name} is not what was saved",
                    cause="its SHA-256 differs from the manifest's, or the file is gone",
                    alternatives=["an earlier checkpoint"],
                )

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """All tensors of a kind."""
        found: dict[str, Tensor] = {}
        for name in self._names:
            if name.startswith(f"{kind}."):
                found |= load_file(self._folder / name)
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        return json.loads((self._folder / "settings.json").read_text(encoding="utf-8"))


def _file_name(kind: str, number: int) -> str:
    return f"{kind}.safetensors" if number == 1 else f"{kind}.{number:05d}.safetensors"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
