"""What an optimizer keeps and launches, measured on a twin of it; the user's optimizer never takes a step."""

import copy
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meshwright.errors import CaptureError
from meshwright.graph._graph import OptimizerState
from meshwright.graph.capture_copy import fake_mode, fake_tensor
from meshwright.graph.capture_operations import classify

_LARGEST = 2**20
_CUT_DIM = 64


def optimizer_state(optimizer: Optimizer) -> OptimizerState:
    """Bytes kept per element, launches per parameter, and whether a fused form runs here.

    One step of a twin (same class, same options, one fake parameter of each shape) shows it. Where a step reads
    values (`item()`), the twin is real; dims of parameters with over a million elements are then cut to 64.

    Raises:
        CaptureError: the optimizer fails on the twin too.
    """
    twin = _fake_step(optimizer) or _small_step(optimizer)
    elements = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    return OptimizerState(
        name=type(optimizer).__name__,
        bytes_per_element=twin.kept() / max(elements, 1),
        fused=_has_fused(optimizer),
        operations=-(-len(twin.launches.names) // max(len(twin.parameters), 1)),
    )


class _Launches(TorchDispatchMode):
    """Names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = classify(func)
        if known.kind != "view" and func.namespace == "aten":
            self.names.append(known.name)
        return func(*args, **(kwargs or {}))


class _Twin:
    """An optimizer of the same class and options over other parameters: one of each shape in each group.

    Args:
        optimizer: the user's.
        replace: makes the parameter that stands for one of the user's.
    """

    def __init__(self, optimizer: Optimizer, replace: Callable[[Tensor], Tensor]) -> None:
        self.launches = _Launches()
        self.optimizer: Optimizer = object.__new__(type(optimizer))
        users = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        memo: dict[int, Any] = {id(parameter): replace(parameter) for parameter in users}
        self.parameters: list[Tensor] = []
        self._elements: list[int] = []
        kept = {name: value for name, value in vars(optimizer).items() if name not in ("state", "step", "zero_grad")}
        self.optimizer.__dict__.update(copy.deepcopy(kept, {**memo, id(optimizer): self.optimizer}))
        for name in vars(self.optimizer):
            if name.endswith("_hooks"):
                self.optimizer.__dict__[name] = OrderedDict()
        self.optimizer.state = defaultdict(dict)
        for group, users_group in zip(self.optimizer.param_groups, optimizer.param_groups, strict=True):
            self._keep_one_of_each(group, users_group["params"], memo)

    def kept(self) -> float:
        """State for all of the user's parameters (B); counters without dims left out."""
        total = 0.0
        for parameter, elements in zip(self.parameters, self._elements, strict=True):
            sizes = (
                value.numel() * value.element_size()
                for value in tree_leaves(self.optimizer.state.get(parameter, {}))
                if isinstance(value, Tensor) and value.ndim > 0
            )
            total += sum(sizes) / max(parameter.numel(), 1) * elements
        return total

    def step(self) -> None:
        """One step, without the hooks that users and torch put around it."""
        step = inspect.unwrap(type(self.optimizer).step)
        closure = inspect.signature(step).parameters.get("closure")
        needed = closure is not None and closure.default is inspect.Parameter.empty
        with torch.no_grad(), self.launches:
            step(self.optimizer, lambda: torch.zeros(())) if needed else step(self.optimizer)

    def _keep_one_of_each(self, group: dict[str, Any], users: list[Tensor], memo: dict[int, Any]) -> None:
        representatives: dict[tuple[object, ...], int] = {}
        for user in users:
            key = (tuple(user.shape), user.dtype)
            if key not in representatives:
                representatives[key] = len(self.parameters)
                self.parameters.append(memo[id(user)])
                self._elements.append(0)
            self._elements[representatives[key]] += user.numel()
        group["params"] = [self.parameters[position] for position in representatives.values()]
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)


def _fake_step(optimizer: Optimizer) -> _Twin | None:
    mode = fake_mode()
    with mode, FakeCopyMode(mode):
        try:
            twin = _Twin(optimizer, fake_tensor)
            twin.step()
        except Exception:  # whatever a step does with values, the real twin says whether it is a fault
            return None
    return twin


def _small_step(optimizer: Optimizer) -> _Twin:
    try:
        twin = _Twin(optimizer, _small)
        twin.step()
    except Exception as error:
        raise CaptureError(
            f"a step of {type(optimizer).__name__} fails: {type(error).__name__}: {error}",
            cause="what an optimizer keeps is measured by one step of a twin, over one parameter of each shape",
            alternatives=["let step() accept any number of parameters, all with gradients of 1"],
        ) from error
    return twin


def _small(parameter: Tensor) -> nn.Parameter:
    shape = tuple(parameter.shape)
    if parameter.numel() > _LARGEST:
        shape = tuple(min(size, _CUT_DIM) for size in shape)
    device = torch.device("cpu") if parameter.device.type == "meta" else parameter.device
    return nn.Parameter(torch.full(shape, 1 / max(prod(shape), 1), dtype=parameter.dtype, device=device))


def _has_fused(optimizer: Optimizer) -> bool:
    """Whether a step with `fused=True` launches a fused kernel on this device."""
    if "fused" not in optimizer.defaults:
        return False
    twin = _Twin(optimizer, _small)
    for group in twin.optimizer.param_groups:
        group.update(fused=True, foreach=False)
    try:
        twin.step()
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return any("_fused_" in name for name in twin.launches.names)
