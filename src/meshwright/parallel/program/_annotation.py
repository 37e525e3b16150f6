"""What every node of a program says about itself: which module ran it, which call of it, whether it draws numbers."""

import torch
from torch.fx import Graph, Node

from meshwright.parallel.program._step_module import MODEL

_ROOT = "L__self__"
_PROBABILITIES = ("p", "dropout_p", "dropout")
_SWITCHES = ("train", "training")


def annotate(graph: Graph) -> None:
    """Gives every node `module`, `call` and `random`, in place."""
    for node in graph.nodes:
        module, call = _module_of(node)
        node.meta["module"] = module
        node.meta["call"] = call
        node.meta["random"] = node.op == "call_function" and is_random(node)


def is_random(node: Node) -> bool:
    """Whether an operation draws random numbers: dropout with a probability above 0, in training."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    named = {
        argument.name: node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, None)
        for position, argument in enumerate(target._schema.arguments)
    }
    probabilities = [named[name] for name in _PROBABILITIES if isinstance(named.get(name), float)]
    if "dropout" in target._schema.name or (probabilities and any(name in named for name in _SWITCHES)):
        return any(probabilities) and all(named.get(name, True) is not False for name in _SWITCHES)
    if "dropout_p" in named:
        return any(probabilities)
    return torch.Tag.nondeterministic_seeded in target.tags


def _module_of(node: Node) -> tuple[str | None, int]:
    """Path of the innermost module of the user's around a node, and which call of it; None: the loss function."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return None, 0
    key, (path, _) = list(stack.items())[-1]
    call = int(key.rpartition("@")[2]) if "@" in key else 0
    if path == MODEL:
        return "", call
    return (path.removeprefix(f"{MODEL}."), call) if path.startswith(f"{MODEL}.") else (None, 0)
