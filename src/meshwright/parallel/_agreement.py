"""All workers start from worker 0's model, and keep its buffers."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from meshwright.exchange import TensorBroadcast, Transport
from meshwright.parallel._named import all_parameters, batch_norm_buffers

_LOG = logging.getLogger("meshwright")


def agree(model: nn.Module, optimizer: Optimizer | None, transport: Transport) -> None:
    """Gives every worker worker 0's parameters and buffers, and says so where they differed."""
    named = [*all_parameters(model, optimizer), *model.named_buffers()]
    if not named:
        return
    tensors = [tensor for _, tensor in named]
    broadcast = TensorBroadcast(tensors, [0] * len(tensors), transport)
    different = torch.zeros(len(named), device=tensors[0].device)
    different[broadcast.run_and_compare()] = 1.0
    broadcast.close()
    transport.all_reduce(different).wait()
    names = [name for (name, _), count in zip(named, different.tolist(), strict=True) if count > 0]
    if names and transport.rank == 0:
        _LOG.warning(
            "workers had built %d of %d tensors differently (%s%s); all go on from worker 0's. "
            "Call torch.manual_seed before the model is built to have the same model in every run.",
            len(names), len(named), ", ".join(names[:3]), ", …" if len(names) > 3 else "",
        )  # fmt: skip


class Buffers:
    """Buffers that a forward changes, other than BatchNorm's: every worker continues with worker 0's.

    Which they are is found out by watching, and agreed on after the steps 1, 2, 4, 8, …: a message in every step would
    cost more than the buffers.

    Args:
        model: its buffers are looked at anew at each agreement.
        transport: what carries them; nothing else uses it meanwhile.
    """

    def __init__(self, model: nn.Module, transport: Transport) -> None:
        own = batch_norm_buffers(model)
        self._watched = [buffer for buffer in model.buffers() if id(buffer) not in own]
        self._versions = [buffer._version for buffer in self._watched]
        self._transport = transport
        self._broadcast: TensorBroadcast | None = None
        self._steps = 0

    def follow(self) -> None:
        """Overwrites changed buffers with worker 0's; every worker calls it once a step."""
        if not self._watched:
            return
        self._steps += 1
        if self._steps & (self._steps - 1) == 0:
            self._agree()
        if self._broadcast is not None:
            self._broadcast.run()

    def close(self) -> None:
        """Gives the memory of the messages back."""
        if self._broadcast is not None:
            self._broadcast.close()
            self._broadcast = None

    def _agree(self) -> None:
        changed = torch.tensor(
            [float(buffer._version != version) for buffer, version in zip(self._watched, self._versions, strict=True)],
            device=self._watched[0].device,
        )
        self._transport.all_reduce(changed).wait()
        moving: Sequence[Tensor] = [
            buffer for buffer, count in zip(self._watched, changed.tolist(), strict=True) if count > 0
        ]
        self.close()
        if moving:
            self._broadcast = TensorBroadcast(moving, [0] * len(moving), self._transport)
