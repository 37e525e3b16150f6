"""Facts about a step that decide which plans are legal for it."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from meshwright.graph.capture_operations import OperationClass

Trait = str


def operation_traits(
    func: OpOverload, known: OperationClass, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> set[Trait]:
    """What one call says about the step."""
    traits: set[Trait] = set()
    if known.kind == "random" or (known.kind in ("attention", "recurrent") and _drops(func, args, kwargs)):
        traits.add("random")
    if known.kind in ("convolution", "recurrent"):
        traits.add(known.kind)
    if known.kind == "attention":
        traits.add("causal_attention" if _argument(func, args, kwargs, ("is_causal",)) else "masked_attention")
    if "batch_norm" in known.name and "backward" not in known.name and _trains(func, args, kwargs):
        traits.add("batch_norm" if args[0].shape[0] > 1 else "instance_norm")
    return traits


def step_traits(seen: Iterable[tuple[Trait, str]], model: nn.Module) -> set[Trait]:
    """What the calls say together, each with the path of the module that ran it.

    A batch norm in a BatchNorm module can be given the statistics of the global batch; one that a module computes by
    itself cannot. InstanceNorm runs the same operation over a leading dim of 1. Attention is causal where all is.
    """
    traits: set[Trait] = set()
    for trait, path in seen:
        if trait not in ("batch_norm", "instance_norm"):
            traits.add(trait)
            continue
        module = model.get_submodule(path)
        if isinstance(module, _BatchNorm):
            traits.add("batch_norm")
        elif trait == "batch_norm" and not isinstance(module, _InstanceNorm):
            traits.add("batch_statistics")
    if "masked_attention" in traits:
        traits -= {"masked_attention", "causal_attention"}
    if any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules()):
        traits.add("recurrent")
    if any(len(paths) > 1 for _, paths in parameter_paths(model)):
        traits.add("tied_parameters")
    return traits


def parameter_paths(model: nn.Module) -> list[tuple[nn.Parameter, tuple[str, ...]]]:
    """Every parameter once, with all of its names."""
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), (parameter, []))[1].append(path)
    return [(parameter, tuple(paths)) for parameter, paths in found.values()]


def _drops(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    probability = _argument(func, args, kwargs, ("dropout_p", "dropout"))
    return isinstance(probability, float) and probability > 0


def _trains(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    training = _argument(func, args, kwargs, ("training", "train", "use_input_stats"))
    return (training is None or training is True) and bool(args) and isinstance(args[0], Tensor)


def _argument(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]) -> Any:
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in names:
            return args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
    return None
