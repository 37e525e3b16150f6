"""Is a graph the same for every batch, and made of operations that can be split?"""

import os
import re
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from meshwright.errors import ProgramError
from meshwright.graph.capture_gap import relative_place

_OWN = (torch.__path__[0], os.path.dirname(__file__))
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


def check_fixed(graph: Graph, model: str) -> None:
    """Declines what a capture records but nobody can split.

    Args:
        graph: with fake values.
        model: name of the model's class.

    Raises:
        ProgramError: a size or a number is read from a tensor, or an operation is none of torch's.
    """
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is not getitem and not isinstance(node.target, torch._ops.OpOverload):
            raise _declined(
                node, model, f"{getattr(node.target, '__name__', node.target)} is a program within the program"
            )
        if _is_read(node.meta.get("val")):
            raise _declined(
                node, model, f"{node.target} gives a number or a size that depends on the values in a tensor"
            )


def _is_read(value: Any) -> bool:
    """Whether a value is a number from a tensor, or a tensor of a size that is one."""
    if isinstance(value, tuple | list):
        return any(_is_read(item) for item in value)
    if isinstance(value, Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def _declined(node: Node, model: str, cause: str) -> ProgramError:
    places = _PLACE.findall(node.meta.get("stack_trace") or "")
    users = [(file, line) for file, line in places if not file.startswith(_OWN)]
    where = relative_place(*users[-1]) if users else "in its forward or in the loss function"
    return ProgramError(
        f"{model} is not one fixed graph of tensor operations: {where}",
        cause=cause,
        alternatives=["data parallelism and sharded data parallelism run the model as it is", "compute without it"],
    )
