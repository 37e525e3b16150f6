"""What every node of a program says about itself: which module ran it, which call of it, whether it draws numbers."""

import torch
from torch.fx import Graph, Node

from meshwright.parallel.program._step_module import MODEL

_PROBABILITIES = ("p", "dropout_p", "dropout")
_SWITCHES = ("train", "training")


def annotate(graph: Graph) -> None:
    """Gives every node `module`, `call`, `stack` and `random`, in place."""
    for node in graph.nodes:
        node.meta["stack"] = stack = _stack_of(node)
        node.meta["module"], node.meta["call"] = stack[-1] if stack else (None, 0)
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


def _stack_of(node: Node) -> tuple[tuple[str, int], ...]:
    """Path and call of every module of the user's around a node, from outside in; empty: the loss function."""
    return tuple(
        (path.removeprefix(MODEL).removeprefix("."), int(key.rpartition("@")[2]) if "@" in key else 0)
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items()
        if path == MODEL or path.startswith(f"{MODEL}.")
    )
