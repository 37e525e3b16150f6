"""Which sharded parameters really got a gradient."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from meshwright.exchange import Transport


class Presence:
    """Which parameters got a gradient: `fully_shard` scatters zeros for those that did not.

    While a module runs, its parameters are the gathered ones, the same objects in every step; they are watched.

    Args:
        roots: modules after `fully_shard`.
        names: of the sharded parameters: the user's name by the path in the root, for each root.
    """

    def __init__(self, roots: Sequence[nn.Module], names: Sequence[Mapping[str, str]]) -> None:
        self._names = list(dict.fromkeys(name for of_root in names for name in of_root.values()))
        self._present: set[str] = set()
        self._watched: dict[int, Any] = {}
        self._hooks = [
            cast(nn.Module, module).register_forward_pre_hook(partial(self._watch, of_root, f"{path}." if path else ""))
            for root, of_root in zip(roots, names, strict=True)
            for path, module in root.named_modules()
            if isinstance(module, FSDPModule)
        ]

    def absent_everywhere(self, transport: Transport, device: torch.device) -> list[str]:
        """Names of the parameters for which no worker had a gradient since `forget`."""
        counts = torch.tensor([float(name in self._present) for name in self._names], device=device)
        if not self._names:
            return []
        transport.all_reduce(counts).wait()
        if len(self._present) == len(self._names):
            return []
        return [name for name, count in zip(self._names, counts.tolist(), strict=True) if count == 0]

    def forget(self) -> None:
        """A new step begins."""
        self._present.clear()

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in (*self._hooks, *self._watched.values()):
            hook.remove()

    def _watch(self, names: Mapping[str, str], prefix: str, module: nn.Module, args: object) -> None:
        del args
        for path, tensor in module.named_parameters():
            name = names.get(prefix + path)
            if (
                name is not None
                and id(tensor) not in self._watched
                and not isinstance(tensor, DTensor)
                and tensor.requires_grad
            ):
                note = partial(self._note, name)
                self._watched[id(tensor)] = tensor.register_post_accumulate_grad_hook(note)

    def _note(self, name: str, tensor: Tensor) -> None:
        del tensor
        self._present.add(name)
