"""Something else in place of the forward of some blocks of a model, until their own is given back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from meshwright.errors import PlanError, suggestion


class StandIn(ABC):
    """Stands for a block's forward on that one object; a copy of the block has its class's forward again.

    Args:
        block: whose forward.
        forward: what is called in the end; None: the block's own.
    """

    def __init__(self, block: nn.Module, forward: Callable[..., Any] | None = None) -> None:
        self._block = block
        self._forward = block.forward if forward is None else forward
        self.own_forward = block.__dict__.get("forward")

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._block), self._block)
        return type(copied).forward.__get__(copied)


class StandIns:
    """Blocks whose forwards are stood for; their classes, names and state stay as they are.

    Args:
        blocks: of a model.
        make: of a block what stands for its forward.
    """

    def __init__(self, blocks: Sequence[nn.Module], make: Callable[[nn.Module], StandIn]) -> None:
        self._blocks = list(blocks)
        for block in self._blocks:
            block.forward = make(block)

    def close(self) -> None:
        """Gives the blocks their own forward back."""
        for block in self._blocks:
            forward = block.__dict__.pop("forward", None)
            if isinstance(forward, StandIn) and forward.own_forward is not None:
                block.forward = forward.own_forward


def blocks_at(model: nn.Module, paths: Sequence[str], *, missing: Callable[[str], str]) -> list[nn.Module]:
    """The blocks with these names.

    Args:
        model: the user's.
        paths: names of its blocks.
        missing: says that there is no such block.

    Raises:
        PlanError: there is none; offers the name that is nearest.
    """
    names = dict(model.named_modules())
    for path in paths:
        if path not in names:
            raise PlanError(
                missing(path),
                cause="the plan was made for another model",
                alternatives=[hint] if (hint := suggestion(path, list(names))) else [],
                command="meshwright plan SCRIPT",
            )
    return [names[path] for path in paths]
