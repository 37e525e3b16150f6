"""An exported program as a graph on the user's own tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import Graph, GraphModule, Node

from meshwright.errors import ProgramError
from meshwright.graph.capture_traits import parameter_paths
from meshwright.parallel.program._step_module import MODEL

_TAKEN = (set(dir(GraphModule)) - set(dir(nn.Module))) | {"meta"}
_TENSORS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The user's names of tensors.

    Args:
        first: first name by the tensor's identity.
        tied: further names by the first.
    """

    first: dict[int, str]
    tied: dict[str, tuple[str, ...]]


def names_of(model: nn.Module) -> Names:
    """The names of a model's parameters and buffers."""
    paths = parameter_paths(model)
    first = {id(parameter): names[0] for parameter, names in paths}
    for name, buffer in model.named_buffers():
        first.setdefault(id(buffer), name)
    return Names(first=first, tied={names[0]: names[1:] for _, names in paths if len(names) > 1})


def imported(exported: ExportedProgram, names: Names, inputs: list[str]) -> GraphModule:
    """The exported graph with the user's own tensors as `get_attr` nodes, and placeholders for the batch only.

    Args:
        exported: of a `StepModule`.
        names: of the model's tensors.
        inputs: placeholder names for the batch's tensors.
    """
    tensors: Mapping[str, Any] = {**exported.constants, **exported.state_dict}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    remaining = iter(inputs)
    graph = Graph()
    copied: dict[Node, Node] = {}
    attributes: dict[str, Any] = {}
    sources: dict[int, Node] = {}
    for node in exported.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is None:
            copied[node] = graph.node_copy(node, lambda other: copied[other])
            if node.op == "get_attr":
                attributes[node.target] = exported.graph_module.get_submodule(node.target)
            continue
        if spec.kind == InputKind.USER_INPUT:
            copied[node] = _placeholder(graph, node, next(remaining))
            continue
        tensor = _tensor(spec, tensors)
        if id(tensor) not in sources:
            name = names.first.get(id(tensor)) or _constant_name(spec, attributes)
            attributes[name] = tensor
            sources[id(tensor)] = graph.create_node("get_attr", name)
            sources[id(tensor)].meta.update(node.meta)
        copied[node] = sources[id(tensor)]
    _check_names(attributes)
    return GraphModule(attributes, graph)


def _check_names(attributes: Mapping[str, Any]) -> None:
    taken = _TAKEN & {name.partition(".")[0] for name in attributes}
    if taken:
        raise ProgramError(
            f"the model's attribute {min(taken)!r} has a name that torch's graphs use themselves",
            cause="a program holds parameters and buffers under the user's names",
            alternatives=["give the attribute another name"],
        )


def _placeholder(graph: Graph, node: Node, name: str) -> Node:
    new = graph.placeholder(name)
    new.meta.update(node.meta)
    return new


def _tensor(spec: InputSpec, tensors: Mapping[str, Any]) -> Tensor:
    if spec.kind not in _TENSORS or spec.target is None:
        raise ProgramError(
            f"the graph needs {spec.target}, a {spec.kind.name.lower().replace('_', ' ')}, as an argument",
            cause="only parameters, buffers and constant tensors can be held by a program",
            alternatives=["keep objects of other kinds out of forward"],
        )
    return tensors[spec.target]


def _constant_name(spec: InputSpec, attributes: Mapping[str, Any]) -> str:
    """A name for a tensor that the model or the loss function holds outside of parameters and buffers."""
    assert spec.target is not None
    name = spec.target.removeprefix(f"{MODEL}.").replace(".", "_")
    name = f"constant_{name}"
    return name if name not in attributes else f"{name}_{len(attributes)}"
