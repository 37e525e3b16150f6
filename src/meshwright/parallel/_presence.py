"""Which sharded parameters really got a gradient."""

from collections.abc import Sequence
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
        model: after `fully_shard`.
        names: of the sharded parameters.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._names = list(names)
        self._present: set[str] = set()
        self._watched: dict[int, Any] = {}
        sharded = [(path, module) for path, module in model.named_modules() if isinstance(module, FSDPModule)]
        self._hooks = [
            cast(nn.Module, module).register_forward_pre_hook(partial(self._watch, f"{path}." if path else ""))
            for path, module in sharded
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

    def _watch(self, prefix: str, module: nn.Module, args: object) -> None:
        del args
        for name, tensor in module.named_parameters():
            if id(tensor) not in self._watched and not isinstance(tensor, DTensor) and tensor.requires_grad:
                note = partial(self._note, prefix + name)
                self._watched[id(tensor)] = tensor.register_post_accumulate_grad_hook(note)

    def _note(self, name: str, tensor: Tensor) -> None:
        del tensor
        self._present.add(name)
