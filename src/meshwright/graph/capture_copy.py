"""A fake copy of a model and a batch: every shape, none of the memory; the user's own objects are never touched."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from meshwright.graph.capture_batch import mapped


def fake_mode() -> FakeTensorMode:
    """A mode in which tensors have shapes but no memory; real tensors that a loss closes over become fake in it."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_model(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy whose parameters, buffers and other tensors are fake; tied parameters stay tied.

    Parameters on the meta device become fake parameters of the processor, so that the copy takes the kernels
    that a real model would. A model that cannot be deep-copied (it holds a lock, a file, a generator) is copied
    module by module; the other attributes of such a copy are the user's own objects.
    """
    with mode:
        memo: dict[int, Any] = {id(tensor): fake_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())}
    try:
        with FakeCopyMode(mode):
            return copy.deepcopy(model, dict(memo))
    except (TypeError, RuntimeError, AttributeError, NotImplementedError):
        return _copied_by_module(model, memo)


def fake_batch(batch: Any, mode: FakeTensorMode) -> Any:
    """The batch with fake tensors."""
    with mode:
        return mapped(batch, lambda leaf: fake_tensor(leaf) if isinstance(leaf, Tensor) else leaf)


def fake_tensor(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and type, made in the fake mode that is active."""
    device = torch.device("cpu") if tensor.device.type == "meta" else tensor.device
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if not isinstance(tensor, nn.Parameter):
        return fake.requires_grad_(tensor.requires_grad)
    fake._is_param = True  # makes it an nn.Parameter without the copies that the constructor takes
    for name, value in vars(tensor).items():
        setattr(fake, name, value)
    return fake.requires_grad_(tensor.requires_grad)


def _copied_by_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    replica = memo[id(module)] = object.__new__(type(module))
    replica.__dict__.update(module.__dict__)
    for kind in ("_parameters", "_buffers"):
        tensors = module.__dict__[kind].items()
        replica.__dict__[kind] = {name: memo.get(id(tensor), tensor) for name, tensor in tensors}
    replica.__dict__["_modules"] = {
        name: None if child is None else _copied_by_module(child, memo) for name, child in module._modules.items()
    }
    return replica
