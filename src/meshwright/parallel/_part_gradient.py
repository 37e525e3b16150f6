"""Gradients of which other workers have other parts, so that a script's own clipping is right or refused.

`torch.nn.utils.clip_grad_norm_` takes the norm of what it is given. Of a part that norm is too small, and nothing would
say so: parts that are scaled too little, and by another factor on every worker, are a wrong gradient. So the norm of a
part is that of the whole, which every worker has to ask for, as clipping does; anything else that looks at all of a
gradient at once is refused. What works value by value is left alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.cost import Strategy
from meshwright.errors import UsageError
from meshwright.parallel._parallelized import Held
from meshwright.parallel._pieces import local

# Of a part they are not what they are of the whole.
_OF_ALL = frozenset((
    "norm", "linalg_norm", "linalg_matrix_norm", "_foreach_norm", "sum", "mean", "std", "var", "max", "min", "amax",
    "amin", "any", "all", "dot", "vdot", "count_nonzero", "_amp_foreach_non_finite_check_and_unscale_",
))  # fmt: skip


class PartGradient(Tensor):
    """A gradient, or a worker's part of it."""

    _norm: Callable[[Tensor, float], Tensor]
    _whose: str

    @staticmethod
    def of(gradient: Tensor, name: str, norm: Callable[[Tensor, float], Tensor]) -> "PartGradient":
        """The gradient, on the same memory.

        Args:
            gradient: this worker's.
            name: of its parameter.
            norm: gives, from the gradient and the order, the norm of the whole.
        """
        part = gradient.as_subclass(PartGradient)
        part._norm, part._whose = norm, name
        return part

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls for every operation on it."""
        del types
        with torch._C.DisableTorchFunctionSubclass():
            first = args[0] if args else None
            if func is torch.linalg.vector_norm and isinstance(first, PartGradient):
                return first._norm(first.as_subclass(Tensor), *args[1:], **(kwargs or {}))
            if getattr(func, "__name__", "") in _OF_ALL:
                raise _refused(func.__name__, first)
            return func(*args, **(kwargs or {}))


class PartNorms:
    """Norms of whole gradients from parts: ‖g‖ᵖ = Σ over workers of ‖part‖ᵖ / (workers that have the part).

    Args:
        held: what this worker holds; all workers make it at the same time.
        whole: all workers.
    """

    def __init__(self, held: Sequence[Held], whole: dist.ProcessGroup | None) -> None:
        self._whole = whole
        own = [(item.name, item.spans) for item in held]
        everyone: list[Any] = [None] * dist.get_world_size(whole)
        dist.all_gather_object(everyone, own, group=whole)
        self._counts = Counter(part for each in everyone for part in each)

    def of(self, item: Held) -> Callable[..., Tensor]:
        """What gives the norm of an item's whole gradient; every worker has to ask for it in the same order."""
        count = self._counts[item.name, item.spans]

        def norm(gradient: Tensor, ord: float = 2.0, **options: Any) -> Tensor:  # noqa: A002  (torch's name)
            if options or ord <= 0:
                raise _refused("vector_norm along dims, or of order 0", item.name)
            own = torch.linalg.vector_norm(gradient, ord).double()
            if ord == float("inf"):
                dist.all_reduce(own, dist.ReduceOp.MAX, group=self._whole)
                return own.to(gradient.dtype)
            powers = own.pow(ord) / count
            dist.all_reduce(powers, group=self._whole)
            return powers.pow(1 / ord).to(gradient.dtype)

        return norm


class GuardedGradients:
    """The gradients of a script's own loop, between its backward and its update.

    Args:
        strategy: that the model follows.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._norms: PartNorms | None = None
        self._versions: list[tuple[Tensor, int]] = []

    def watch(self, held: Sequence[Held]) -> None:
        """A backward has ended; every worker calls it.

        Args:
            held: what this worker holds.
        """
        if self._norms is None and any(item.spans for item in held):
            self._norms = PartNorms(held, None)
        self._versions.clear()
        for item in held:
            gradient = item.parameter.grad
            if gradient is None:
                continue
            if is_sharded(gradient):
                if self._strategy.mesh.splits_the_model:
                    self._versions.append((local(gradient), local(gradient)._version))
            elif self._strategy.sharding == "gradients":
                item.parameter.grad = PartGradient.of(gradient, item.name, _unknown(item))
            elif item.spans and self._norms is not None:
                item.parameter.grad = PartGradient.of(gradient, item.name, self._norms.of(item))

    def accept(self) -> None:
        """What was just done to them was right."""
        self._versions = [(gradient, gradient._version) for gradient, _ in self._versions]

    def check(self) -> None:
        """The optimizer is about to step.

        Raises:
            UsageError: shards of parts were changed, and whether by a norm of all of them cannot be seen.
        """
        if all(gradient._version == version for gradient, version in self._versions):
            return
        raise UsageError(
            "gradients were changed between backward and step, and this worker has shards of parts of them",
            cause="torch.nn.utils.clip_grad_norm_ takes a norm over the shards, not over the parts",
            alternatives=["model.clip_grad_norm_(max_norm) on every worker"],
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is one of torch's sharded tensors, found out without loading them."""
    return hasattr(tensor, "to_local")


def _unknown(item: Held) -> Callable[..., Tensor]:
    """For gradients that some workers do not have: their norms cannot be asked for by all."""

    def norm(*_: Any, **__: Any) -> Tensor:
        raise _refused("linalg_vector_norm", item.name)

    return norm


def _refused(what: str, gradient: Any) -> UsageError:
    name = gradient._whose if isinstance(gradient, PartGradient) else gradient if isinstance(gradient, str) else ""
    return UsageError(
        f"{what} of the gradient{f' of {name}' if name else 's'}, of which this worker has a part only",
        cause="the plan splits parameters over several workers; of a part it is something else than of the whole",
        alternatives=[
            "model.clip_grad_norm_(max_norm) on every worker; it returns the norm of the whole gradient",
            "bfloat16 without a GradScaler",
        ],
    )
