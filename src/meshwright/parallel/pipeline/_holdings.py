"""Which worker of a pipeline has which parameters, and what those have to agree on that several have.

A parameter that no stage of a worker reads keeps its object, name and shape there, but no memory: it is one number
expanded. So the model can be captured again for other micro-batches, and the optimizer, which sees no gradient, makes
no state for it.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.parallel._pieces import local
from meshwright.parallel.pipeline._stages import Stage


class Holdings:
    """What each worker of a pipeline has.

    Args:
        stages: all of them.
        parameters: of the model and the optimizer, by name.
        buffers: of the model, by name.
        group: the pipeline's workers; None: one worker.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        group: dist.ProcessGroup | None,
    ) -> None:
        self._group = group
        self._rank = dist.get_rank(group) if group is not None else 0
        self._size = dist.get_world_size(group) if group is not None else 1
        self._parameters = parameters
        self._buffers = buffers
        readers: dict[int, set[int]] = {}
        for stage in stages:
            for tensor in (*stage.program.parameters.values(), *stage.program.buffers.values()):
                readers.setdefault(id(tensor), set()).add(stage.index % self._size)
        # what no stage reads stays with worker 0: it has a value to be saved, but no gradient
        self._holders = {
            name: tuple(sorted(readers.get(id(tensor), {0}))) for name, tensor in (parameters | buffers).items()
        }

    @property
    def parameters(self) -> dict[str, Tensor]:
        """This worker's, by name."""
        return {name: tensor for name, tensor in self._parameters.items() if self._rank in self._holders[name]}

    @property
    def tied(self) -> tuple[str, ...]:
        """Names of the parameters with gradients that several workers have."""
        return tuple(
            name for name, tensor in self._parameters.items() if tensor.requires_grad and len(self._holders[name]) > 1
        )

    def has(self, name: str) -> bool:
        """Whether this worker has a parameter, or the newest value of a buffer."""
        return self._rank in self._holders.get(name, (0,))

    def counts_here(self, name: str) -> bool:
        """Whether a parameter's gradient is counted on this worker: of those that have it, on the first."""
        return self._holders[name][0] == self._rank

    def release(self) -> None:
        """Frees the memory of parameters that are elsewhere."""
        for name, tensor in self._parameters.items():
            if self._rank not in self._holders[name]:
                tensor.data = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
                tensor.grad = None

    def follow(self, successors: Mapping[str, Tensor]) -> None:
        """Takes the tensors that have taken the place of parameters, by name."""
        self._parameters |= successors

    def sum_tied(self) -> None:
        """Makes the gradient of a parameter that several workers have the sum of theirs, in the same order everywhere.

        A parameter without gradient on all of them keeps none.
        """
        for name, tensor in self.parameters.items():
            if tensor.requires_grad and len(self._holders[name]) > 1:
                self._sum(tensor, self._holders[name])

    def _sum(self, parameter: Tensor, holders: Sequence[int]) -> None:
        own = _with_presence(parameter)
        received = {holder: torch.empty_like(own) for holder in holders if holder != self._rank}
        messages = []
        for holder, tensor in received.items():
            messages.append(dist.P2POp(dist.isend, own, group=self._group, group_peer=holder))
            messages.append(dist.P2POp(dist.irecv, tensor, group=self._group, group_peer=holder))
        for work in dist.batch_isend_irecv(messages):
            work.wait()
        total = torch.stack([received.get(holder, own) for holder in holders]).sum(0)
        if not bool(total[-1] > 0):
            return
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = local(parameter.grad)
        gradient.copy_(total[:-1].view(gradient.shape))

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters on every worker."""
        return {name: self._full(name, tensor.detach()) for name, tensor in self._parameters.items()}

    def full_buffers(self) -> dict[str, Tensor]:
        """Copies of all buffers on every worker, as they are where they change."""
        return {name: self._full(name, tensor.detach()) for name, tensor in self._buffers.items()}

    def full_gradients(self) -> dict[str, Tensor | None]:
        """Copies of all gradients on every worker."""
        trainable = {name: tensor for name, tensor in self._parameters.items() if tensor.requires_grad}
        mine = {name for name, tensor in trainable.items() if self.counts_here(name) and tensor.grad is not None}
        present: list[set[str]] = [mine]
        if self._group is not None:
            present = [set()] * self._size
            dist.all_gather_object(present, mine, group=self._group)
        found = set().union(*present)
        return {
            name: self._full(name, torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.detach())
            if name in found
            else None
            for name, tensor in trainable.items()
        }

    def restore(self) -> None:
        """Gives every worker all parameters and buffers again."""
        for name, tensor in self._parameters.items():
            tensor.data = self._full(name, tensor.detach())
        for name, tensor in self._buffers.items():
            tensor.detach().copy_(self._full(name, tensor.detach()))

    def _full(self, name: str, tensor: Tensor) -> Tensor:
        whole = tensor.contiguous().clone(memory_format=torch.contiguous_format)
        if self._group is not None:
            dist.broadcast(whole, group_src=self._holders[name][0], group=self._group)
        return whole


def _with_presence(parameter: Tensor) -> Tensor:
    """This worker's part of a parameter's gradient, and a 1 behind it; zeros and a 0 where there is none."""
    if parameter.grad is None:
        part = local(parameter.detach())
        return torch.zeros(part.numel() + 1, dtype=part.dtype, device=part.device)
    part = local(parameter.grad.detach())
    return torch.cat([part.flatten(), part.new_ones(1)])
