"""Optimizer state in the host's memory: it comes to the device in pieces while parameters are updated.

The optimizer stays the user's object and is stepped by whoever stepped it before: hooks around its step update all
parameters but the last piece's first, those of other pieces without gradients meanwhile, which every optimizer passes
over. Between steps the state is on the host, so that forward and backward have its room.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meshwright.errors import PlanError
from meshwright.parallel._pieces import local
from meshwright.parallel._twin import stepped_twin
from meshwright.units import MIB, Bytes

PIECE: Bytes = 64 * MIB  # `cost.hybrid._held` prices as much


class StateOffload:
    """Keeps an optimizer's state on the host until closed.

    Args:
        optimizer: the user's.
        piece: state that is on the device at one time, the largest parameter's at least (B).

    Raises:
        PlanError: the optimizer's update of a parameter depends on others.
    """

    def __init__(self, optimizer: Optimizer, *, piece: Bytes = PIECE) -> None:
        _check(optimizer)
        self._optimizer, self._piece = optimizer, piece
        self._hidden: list[tuple[Tensor, Tensor]] = []
        self._under_way: list[Tensor] = []
        self._inside = False
        self._hooks = (
            optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after),
        )  # fmt: skip
        self._carry(self._parameters(), to_host=True)

    def close(self) -> None:
        """Leaves the state on the device, as if it had always been there."""
        for hook in self._hooks:
            hook.remove()
        self._carry(self._parameters(), to_host=False)

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Updates every piece but the last, and leaves that one to the step under way."""
        if self._inside:
            return
        if any(value is not None for value in (*args[1:], *kwargs.values())):
            raise PlanError(
                f"{type(optimizer).__name__}.step with arguments while its state is in the host's memory",
                cause="parameters are updated in pieces, and a closure would be called for each",
                alternatives=["--set offload=none", "step() without arguments"],
            )
        ready = [parameter for parameter in self._parameters() if parameter.grad is not None]
        pieces = list(_pieces(ready, self._sizes(ready), self._piece))
        gradients = [(parameter, parameter.grad) for parameter in ready]
        self._hidden = [(parameter, gradient) for parameter, gradient in gradients if gradient is not None]
        for number, mine in enumerate(pieces):
            self._show(mine)
            self._carry(mine, to_host=False)
            self._under_way = mine
            if number < len(pieces) - 1:
                self._step_part(optimizer)
                self._carry(mine, to_host=True)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The last piece goes back; all gradients are there again."""
        del optimizer, args, kwargs
        if self._inside:
            return
        self._carry(self._under_way, to_host=True)
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden, self._under_way = [], []

    def _step_part(self, optimizer: Optimizer) -> None:
        self._inside = True
        try:
            # of the class: a scheduler counts the steps of the instance
            type(optimizer).step(optimizer)  # pyrefly: ignore[missing-argument]
        finally:
            self._inside = False

    def _show(self, mine: Sequence[Tensor]) -> None:
        """Leaves these parameters their gradients, and takes them from all others."""
        shown = {id(parameter) for parameter in mine}
        for parameter, gradient in self._hidden:
            parameter.grad = gradient if id(parameter) in shown else None

    def _sizes(self, parameters: Sequence[Tensor]) -> list[Bytes]:
        """Bytes of every parameter's state; before the first step, of as many copies of it as the others have."""
        return [
            sum(value.nbytes for value in self._optimizer.state.get(one, {}).values() if isinstance(value, Tensor))
            or 2 * local(one.detach()).nbytes
            for one in parameters
        ]

    def _carry(self, parameters: Sequence[Tensor], *, to_host: bool) -> None:
        for parameter in parameters:
            state = self._optimizer.state.get(parameter, {})
            device = torch.device("cpu") if to_host else parameter.device
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dim() and value.device != device:
                    state[name] = _on_host(value) if to_host else value.to(device, non_blocking=True)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


def _pieces(parameters: Sequence[Tensor], sizes: Sequence[Bytes], most: Bytes) -> Iterator[list[Tensor]]:
    """Parameters in a row whose state together is no larger than a piece."""
    found: list[Tensor] = []
    filled = 0
    for parameter, size in zip(parameters, sizes, strict=True):
        if found and filled + size > most:
            yield found
            found, filled = [], 0
        found.append(parameter)
        filled += size
    if found:
        yield found


def _on_host(value: Tensor) -> Tensor:
    """A copy in locked pages, from which it comes back at the link's full speed."""
    kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type in ("cuda", "xpu"))
    return kept.copy_(value)


def _check(optimizer: Optimizer) -> None:
    """Steps two small parameters together and one after the other, with the optimizer's own settings.

    Raises:
        PlanError: the results differ.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise _refused(optimizer)
    generator = torch.Generator().manual_seed(0)
    first, second, *gradients = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(6))
    steps = [gradients[:2], gradients[2:]]
    for group in optimizer.param_groups:
        together = stepped_twin(optimizer, group, [first, second], steps)
        apart = [
            stepped_twin(optimizer, group, [value], [[step[place]] for step in steps])[0]
            for place, value in enumerate((first, second))
        ]
        if not all(torch.allclose(one, other, rtol=1e-9) for one, other in zip(together, apart, strict=True)):
            raise _refused(optimizer)


def _refused(optimizer: Optimizer) -> PlanError:
    return PlanError(
        f"{type(optimizer).__name__} cannot have its state in the host's memory",
        cause="its update of a parameter depends on others, and only a piece of them is updated at a time",
        alternatives=["--set offload=none", "an optimizer such as AdamW or SGD"],
        command="meshwright plan SCRIPT",
    )
