"""The norm of the whole gradient, when every worker holds some of it and some of it is held several times."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.exchange import Transport
from meshwright.parallel._parallelized import Held
from meshwright.parallel._pieces import local


class WholeNorm:
    """‖g‖² = Σ over workers and pieces of ‖piece‖² / (workers that have the piece).

    What is split counts once for every part, what is replicated or tied across stages once.

    Args:
        held: what this worker holds; all workers make it at the same time.
        transport: between all workers; nothing else uses it at the same time.
        whole: all workers.
    """

    def __init__(self, held: Sequence[Held], *, transport: Transport, whole: dist.ProcessGroup) -> None:
        self._transport = transport
        own = [(item.name, item.spans) for item in held if item.keeps_gradient]
        everyone: list[Any] = [None] * dist.get_world_size(whole)
        dist.all_gather_object(everyone, own, group=whole)
        counts = Counter(piece for each in everyone for piece in each)
        self._parts = [1 / counts[piece] for piece in own]
        self._parameters = [item.parameter for item in held if item.keeps_gradient]

    def clip(self, max_norm: float, *, device: torch.device) -> Tensor:
        """Scales this worker's gradients as `torch.nn.utils.clip_grad_norm_` does on one device; the norm before.

        Args:
            max_norm: largest norm of the whole gradient.
            device: of the gradients.
        """
        pairs = [
            (local(parameter.grad), part)
            for parameter, part in zip(self._parameters, self._parts, strict=True)
            if parameter.grad is not None
        ]
        gradients = [gradient for gradient, _ in pairs]
        squares = torch.zeros(1, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        if gradients:
            norms = torch.stack(torch._foreach_norm(gradients)).to(squares.dtype)
            counted = torch.tensor([part for _, part in pairs], dtype=squares.dtype, device=device)
            squares += (norms.square() * counted).sum()
        self._transport.all_reduce(squares).wait()
        norm = squares.sqrt()[0]
        if gradients:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
