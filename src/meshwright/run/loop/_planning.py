"""Planning for a hand-written loop: its first step runs as it is, and shows what a plan has to know.

A plan needs the optimizer and a loss. The optimizer shows itself when it steps. Of the loss, the gradients that it sent
back to the model's outputs are enough: with g = ∂L/∂o, the number Σ ⟨o, g⟩ has the same gradients in the parameters as
L, and takes as long but for the loss itself, which every worker computes alike in such a loop. So the first forward and
backward of the script are real, and planning begins in front of the first update.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from meshwright.cost import Allowance, Precision, Strategy
from meshwright.documents import read_toml
from meshwright.errors import UsageError
from meshwright.graph.capture_batch import batch_size, leaves
from meshwright.plan import Goal, Pins, Plan
from meshwright.run._job import Job
from meshwright.run._planning import merged_goal, plan_first
from meshwright.run._role import Role

# What such a loop cannot follow: each needs the whole step in one hand.
_ONLY: Mapping[str, Any] = {
    "pipeline": 1,
    "accumulation": 1,
    "compiled": False,
    "optimizer": "as_written",
    "sharing": "fixed",
    "reduction": "as_written",
    "compression": "none",
    "updates": "every_step",
    "offload": "none",
}
_WHY = {
    "pipeline": "stages take turns with forwards and backwards of micro-batches, and the loop calls each once",
    "accumulation": "the loop decides what a forward is given",
    "updates": "the loop updates in every step",
}


class LoopPlanner:
    """Stands where workers will be: runs the model as it is until the optimizer shows itself, and plans then.

    Args:
        model: the user's; the process is thrown away.
        role: where to read from and write to.
        pins: choices of the script.
        allow: what the script permits.
        given: a whole plan of the script.
    """

    is_cut = False

    def __init__(
        self, model: nn.Module, role: Role, *, pins: Pins, allow: tuple[Allowance, ...], given: Plan | None
    ) -> None:
        self._model, self._role, self._pins, self._allow, self._given = model, role, pins, allow, given
        goal = read_toml(Goal, role.goal) if role.goal else Goal()
        check_followed(merged_goal(goal, pins=pins, allow=allow))
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._gradients: dict[int, Tensor] = {}
        self._own = {id(tensor) for tensor in model.parameters()}
        self._hook = register_optimizer_step_pre_hook(lambda optimizer, *_: self._update_begins(optimizer))

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's; the first call that a gradient comes back to is what is planned for."""
        output = self._model(*args, **kwargs)
        found = [leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor)]
        if self._inputs is None and any(leaf.requires_grad for leaf in found):
            self._inputs = (args, kwargs)
            for number, leaf in enumerate(found):
                if leaf.requires_grad:
                    leaf.register_hook(lambda gradient, number=number: self._keep(number, gradient))
        return output

    def clip(self, max_norm: float) -> Tensor:
        """As torch does."""
        return nn.utils.clip_grad_norm_(self._model.parameters(), max_norm)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's."""
        return self._model.state_dict()

    def _keep(self, number: int, gradient: Tensor) -> None:
        self._gradients.setdefault(number, gradient.detach().clone())

    def _update_begins(self, optimizer: Optimizer) -> None:
        """Plans, where the optimizer is the model's.

        Raises:
            SystemExit: the plan has been made.
        """
        if not any(id(tensor) in self._own for group in optimizer.param_groups for tensor in group["params"]):
            return
        if self._inputs is None or not self._gradients:
            raise UsageError(
                f"{type(optimizer).__name__} steps before a backward has come through mw.parallel(model)",
                cause="a plan is made of what the model's forward and backward do",
                alternatives=["call what mw.parallel returned, instead of the model itself"],
            )
        self._hook.remove()
        optimizer.zero_grad()
        size = batch_size(self._inputs)
        shared = {number: tensor for number, tensor in self._gradients.items() if _has_examples(tensor, size)}
        whole = {number: tensor for number, tensor in self._gradients.items() if number not in shared}
        job = Job(model=self._model, optimizer=optimizer, loss=_Recorded(whole))
        batch = {"inputs": self._inputs, "gradients": shared}
        pins = _followed(self._pins, shares_batch=not whole)
        plan_first(job, batch, self._role, pins=pins, allow=self._allow, given=self._given, loop="in a loop of its own")
        raise SystemExit(0)


class _Recorded:
    """Σ ⟨o, g⟩ with the gradients that the script's own loss sent back.

    Args:
        whole: gradients of outputs that have no examples, by the output's number.
    """

    def __init__(self, whole: Mapping[int, Tensor]) -> None:
        self._whole = whole

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The number."""
        args, kwargs = batch["inputs"]
        found = [leaf for _, leaf in leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]
        gradients = {**self._whole, **batch["gradients"]}
        return torch.stack([(found[number] * gradient).sum() for number, gradient in gradients.items()]).sum()


def check_followed(goal: Goal) -> None:
    """Refuses what a hand-written loop cannot follow.

    Raises:
        UsageError: names it, with what can.
    """
    if goal.allow:
        raise UsageError(
            f"--allow {', '.join(goal.allow)} with a hand-written loop",
            cause="what departs from the mathematics is done to whole steps, which the loop takes itself",
            alternatives=["mw.parallel(model, optimizer, loss, allow={…})", "leave it out"],
        )
    for name, only in _ONLY.items():
        value = getattr(goal.pins, name)
        if value is not None and value != only:
            raise UsageError(
                f"{name} = {value} with mw.parallel(model), a hand-written loop",
                cause=_WHY.get(name, "the loop takes its steps itself"),
                alternatives=["mw.parallel(model, optimizer, loss): all methods", f"--set {name}={only}".lower()],
            )


def check_strategy(strategy: Strategy) -> None:
    """Refuses a whole plan that a hand-written loop cannot follow.

    Raises:
        UsageError: names what it cannot.
    """
    exchange, kernels = strategy.exchange, strategy.kernels
    found = [
        name
        for name, wanted in (
            (f"pipeline = {strategy.mesh.pp}", strategy.mesh.pp > 1),
            (f"accumulation = {strategy.batch.accumulation}", strategy.batch.accumulation > 1),
            ("compiled blocks", kernels.compiled),
            ("another form of the optimizer", kernels.optimizer != "as_written"),
            ("another precision", strategy.precision != Precision()),
            ("compression", exchange.compression is not None),
            ("updates apart", exchange.updates is not None),
            (f"{strategy.offload} in the host's memory", strategy.offload != "none"),
        )
        if wanted
    ]
    if found:
        raise UsageError(
            f"the plan has {', '.join(found)}, and mw.parallel(model) is a hand-written loop",
            cause="the loop calls forward, backward and update itself, each once for the whole batch",
            alternatives=["mw.parallel(model, optimizer, loss): all of it", "meshwright run SCRIPT, without a plan"],
        )


def _followed(pins: Pins, *, shares_batch: bool) -> Pins:
    """Choices that leave only what such a loop can follow."""
    settled = dict(_ONLY) if shares_batch else {**_ONLY, "data": 1, "shard": 1}
    known = {field.name for field in fields(Pins) if getattr(pins, field.name) is not None}
    return replace(pins, **{name: value for name, value in settled.items() if name not in known})


def _has_examples(tensor: Tensor, size: int) -> bool:
    return tensor.dim() > 0 and len(tensor) == size
