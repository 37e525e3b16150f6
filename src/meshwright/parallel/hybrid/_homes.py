"""Modules whose parameters are in shards run the graphs of other micro-batch shapes too.

`fully_shard` ties a parameter to one module, which gathers it when it is called. So the first graph's module, its home,
stays the only one that has the parameters; a later graph of the same operations on other shapes lends it its code for
the length of a call.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.fx import GraphModule

from meshwright.parallel._recompute import Recomputed


class Homes:
    """The modules that have the parameters, by what they compute."""

    def __init__(self) -> None:
        self._homes: dict[int, GraphModule] = {}

    @property
    def modules(self) -> tuple[GraphModule, ...]:
        """All of them, in the order in which they came."""
        return tuple(self._homes.values())

    def runner(self, number: int, graph_module: GraphModule) -> nn.Module:
        """What runs a graph: the first one of a number itself, any other at the home of that one.

        Args:
            number: equal for graphs that differ in shapes only.
            graph_module: of one shape.
        """
        home = self._homes.setdefault(number, graph_module)
        return graph_module if home is graph_module else Guest(graph_module, home)


class Guest(nn.Module):
    """A graph run by another module of the same structure, on that one's parameters.

    Args:
        graph_module: whose code runs; its own parameters are not touched.
        home: which has the parameters.
    """

    def __init__(self, graph_module: GraphModule, home: GraphModule) -> None:
        super().__init__()
        at_home = dict(home.named_modules())
        codes = [
            Code(part, at_home[path]) for path, part in graph_module.named_modules() if isinstance(part, GraphModule)
        ]
        self._forwards = [(code.home, _as_there(code)) for code in codes]
        # in a tuple, so that it is no child: its parameters are counted once
        self._home = (home,)

    def forward(self, *inputs: Any) -> Any:
        """What the graph gives."""
        kept = [part.__dict__.get("forward") for part, _ in self._forwards]
        for part, forward in self._forwards:
            part.__dict__["forward"] = forward
        try:
            return self._home[0](*inputs)
        finally:
            for (part, _), own in zip(self._forwards, kept, strict=True):
                if own is None:
                    del part.__dict__["forward"]
                else:
                    part.__dict__["forward"] = own


class Code:
    """One module's forward, computed at another module.

    Args:
        part: whose forward.
        home: where.
    """

    def __init__(self, part: GraphModule, home: nn.Module) -> None:
        self.home = home
        self._function = type(part).forward
        # constants of the graph may depend on the shapes; the user's own buffers are the same objects
        self._constants = {name: value for name, value in part._buffers.items() if value is not home._buffers.get(name)}

    def __call__(self, *inputs: Any) -> Any:
        """What the forward gives."""
        if not self._constants:
            return self._function(self.home, *inputs)
        kept = {name: self.home._buffers.get(name) for name in self._constants}
        self.home._buffers.update(self._constants)
        try:
            return self._function(self.home, *inputs)
        finally:
            self.home._buffers.update(kept)


def _as_there(code: Code) -> Callable[..., Any]:
    """Computed twice where the home's own forward is."""
    own = code.home.__dict__.get("forward")
    return Recomputed(code.home, nullcontext(), forward=code) if isinstance(own, Recomputed) else code
