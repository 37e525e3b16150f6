"""Where a program may be cut into stages, and what would cross."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from meshwright.errors import PlanError, suggestion
from meshwright.graph import Cut, Linear
from meshwright.parallel.pipeline._flow import Flow, num_bytes
from meshwright.parallel.program import Program

_MODEL = "model."


@dataclass(frozen=True, kw_only=True, slots=True)
class CutPoint:
    """A point at which a stage may begin.

    Args:
        path: of the module whose first operation begins the stage; its second call ends in `@1`, its third in `@2`.
        place: of that operation among those that belong to a stage.
        values: names of what crosses, also to stages farther on.
        fixed: bytes that cross whatever the number of examples (B).
        per_example: bytes that cross for each example of a micro-batch (B).
    """

    path: str
    place: int
    values: tuple[str, ...]
    fixed: int
    per_example: float

    @property
    def as_data(self) -> Cut:
        """The same for the planner."""
        return Cut(path=self.path, size=Linear(fixed=self.fixed, per_example=self.per_example))


def possible_cuts(program: Program) -> tuple[CutPoint, ...]:
    """Every point at which a stage may begin, in the order of execution.

    A stage begins with a module that has parameters. No point lies between an operation that changes a tensor in
    place and what is to see the change, nor between two uses of a buffer that the step changes: running statistics
    live on one stage.
    """
    flow = Flow(program)
    found, place_of = [], entries(flow)
    with_parameters = {name for node in flow.operations if _reads_parameter(node, program) for name in calls(node)}
    taken: set[int] = set()
    for path, place in place_of.items():
        if place == 0 or place in taken or path not in with_parameters or obstacle(flow, place):
            continue
        taken.add(place)
        values = crossing(flow, place)
        scaling = sum(num_bytes(value) for value in values if _has_examples(value, program))
        found.append(
            CutPoint(
                path=path,
                place=place,
                values=tuple(value.name for value in values),
                fixed=sum(num_bytes(value) for value in values) - scaling,
                per_example=scaling / program.batch_size,
            )
        )
    return tuple(sorted(found, key=lambda point: point.place))


def places_of(flow: Flow, cuts: Sequence[str]) -> list[int]:
    """Places of the first operation of every stage but the first.

    Args:
        flow: of the program.
        cuts: paths of modules, in the order of execution.

    Raises:
        PlanError: no such module, no legal point, or not in order.
    """
    place_of = entries(flow)
    places: list[int] = []
    for path in cuts:
        if path not in place_of:
            raise PlanError(
                f"no stage can begin at {path!r}",
                cause="the model calls no module of that name, or nothing in it belongs to one stage",
                alternatives=[hint] if (hint := suggestion(path, list(place_of))) else [],
            )
        place = place_of[path]
        reason = "it is the model's first operation" if place == 0 else obstacle(flow, place)
        if not reason and places and place <= places[-1]:
            reason = f"it runs before the stage that begins at {cuts[len(places) - 1]!r}, or with it"
        if reason:
            legal = [point.path for point in possible_cuts(flow.program)]
            raise PlanError(f"no stage can begin at {path!r}", cause=reason, alternatives=_some(legal))
        places.append(place)
    return places


def entries(flow: Flow) -> dict[str, int]:
    """Every module call that has an operation of its own and the place of its first one, outer modules first."""
    found: dict[str, int] = {}
    for place, node in enumerate(flow.operations):
        for name in calls(node):
            found.setdefault(name, place)
    return found


def calls(node: Node) -> list[str]:
    """The module calls around an operation, outer ones first; those of the model itself are left out."""
    found = []
    for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
        if path.startswith(_MODEL):
            _, mark, call = key.rpartition("@")
            found.append(path.removeprefix(_MODEL) + (f"@{call}" if mark else ""))
    return found


def crossing(flow: Flow, place: int) -> list[Node]:
    """What is made before a place and read there or later."""
    return [
        node
        for node, made in flow.position.items()
        if made < place <= flow.last_use.get(node, -1) and isinstance(node.meta.get("val"), Tensor)
    ]


def obstacle(flow: Flow, place: int) -> str:
    """Why no stage may begin at a place; empty where one may."""
    for first, last in flow.joined:
        if first < place <= last:
            return (
                f"{flow.operations[first].name} and {flow.operations[last].name}, before and after it, share a tensor "
                "that is changed in place"
            )
    for node, made in flow.position.items():
        value = node.meta.get("val")
        if made < place <= flow.last_use.get(node, -1) and not isinstance(value, Tensor):
            return f"{node.name}, which would cross, is no tensor"
    return ""


def _reads_parameter(node: Node, program: Program) -> bool:
    return any(source.op == "get_attr" and str(source.target) in program.parameters for source in node.all_input_nodes)


def _has_examples(node: Node, program: Program) -> bool:
    shape = node.meta["val"].shape
    return len(shape) > 0 and shape[0] % program.batch_size == 0


def _some(names: Sequence[str]) -> list[str]:
    """A few of them, spread evenly."""
    step = max(1, -(-len(names) // 5))
    return [f"begin it at {name}" for name in names[::step]]
