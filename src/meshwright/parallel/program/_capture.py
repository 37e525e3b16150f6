"""From the user's model, loss function and batch to a program."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx import config as fx_config

from meshwright.errors import LossError, ProgramError
from meshwright.graph.capture_batch import batch_size, leaves
from meshwright.graph.capture_gap import construct_behind
from meshwright.parallel.program._annotation import annotate
from meshwright.parallel.program._cleaning import clean
from meshwright.parallel.program._fixed import check_fixed
from meshwright.parallel.program._forward import Forward
from meshwright.parallel.program._functional import functional
from meshwright.parallel.program._import import Names, imported, names_of
from meshwright.parallel.program._light_import import annotations_only
from meshwright.parallel.program._program import Input, Program
from meshwright.parallel.program._regions import without_regions
from meshwright.parallel.program._step_module import (
    StepModule,
    attributes_kept,
    checkpoints_inlined,
    python_numbers_kept,
)

_LOGGERS = (
    "torch.fx.experimental.symbolic_shapes",
    "torch._export",
    "torch.export",
    "torch._subclasses.fake_tensor",
    "torch.__trace",
)
Loss = Callable[[nn.Module, Any], Any]


def capture_program(model: nn.Module, loss: Loss, batch: Any, *, training: bool = True) -> Program:
    """Forward and loss of one micro-batch as a graph on the model's own tensors.

    Nothing is computed: the step runs on fake tensors, and model, buffers and random numbers stay as they are.
    `torch.utils.checkpoint` in the model is left out of the graph; what is computed again is for the plan to say.

    Args:
        model: any module.
        loss: `loss(model, batch)`, a scalar mean or `(total, weight)`.
        batch: one micro-batch; its shapes and everything in it that is no tensor become constants.
        training: False captures the model in evaluation mode.

    Raises:
        ProgramError: the step is not one fixed graph; says which construct forced it, and where.
    """
    inputs = _inputs(batch)
    step = StepModule(model, loss, batch)
    names, kind = names_of(model), type(model).__name__
    modes = [(module, module.training) for module in model.modules()]
    try:
        if not training:
            model.eval()
        graph_module = _recorded(step, batch, names, inputs)
        try:
            check_fixed(graph_module.graph, kind)
        except ProgramError:  # once more with lines, to say that of what is declined
            check_fixed(_recorded(step, batch, names, inputs, lines=True).graph, kind)
            raise
    finally:
        for module, mode in modes:
            module.training = mode
    graph_module = functional(graph_module)
    clean(graph_module.graph)
    annotate(graph_module.graph)
    graph_module.recompile()
    program = program_of(graph_module, names, inputs=inputs, batch_size=batch_size(batch))
    if isinstance(loss, Forward):
        program = replace(program, output="outputs", structure=loss.structure)
    return replace(program, custom_functions=tuple(sorted(step.custom_functions)))


def program_of(graph_module: GraphModule, names: Names, *, inputs: tuple[Input, ...], batch_size: int) -> Program:
    """The program around a finished graph."""
    outputs: Any = graph_module.graph.output_node().args[0]
    attributes = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    return Program(
        graph_module=graph_module,
        inputs=inputs,
        output="mean" if len(outputs) == 1 else "total and weight",
        parameters={name: tensor for name, tensor in graph_module.named_parameters() if name in attributes},
        buffers={
            name: tensor
            for name, tensor in graph_module.named_buffers()
            if name in attributes and names.first.get(id(tensor)) == name
        },
        tied={name: others for name, others in names.tied.items() if name in attributes},
        batch_size=batch_size,
    )


def _inputs(batch: Any) -> tuple[Input, ...]:
    """The batch's tensors as placeholders."""
    size = batch_size(batch)
    found = list(leaves(batch))
    arrays = [path or "batch" for path, leaf in found if isinstance(leaf, np.ndarray)]
    if arrays:
        raise ProgramError(
            f"the batch holds {len(arrays)} NumPy arrays, {arrays[0]} first",
            cause="a graph takes tensors; an array would become a constant of it",
            alternatives=["turn arrays into tensors in the loader's collate function"],
        )
    tensors = [(path, leaf) for path, leaf in found if isinstance(leaf, Tensor)]
    return tuple(
        Input(
            path=path,
            name=f"batch_{number}_{re.sub(r'[^0-9a-zA-Z]+', '_', path)}".rstrip("_"),
            shape=tuple(leaf.shape),
            has_examples=leaf.ndim > 0 and leaf.shape[0] == size,
        )
        for number, (path, leaf) in enumerate(tensors)
    )


def _recorded(
    step: StepModule, batch: Any, names: Names, inputs: tuple[Input, ...], *, lines: bool = False
) -> GraphModule:
    """The step as a graph on the user's own tensors, whatever its operations are.

    Args:
        lines: whether each node has the lines of code behind it, which take up to a quarter of the time.
    """
    exported = _exported(step, batch, lines=lines)
    graph_module = imported(exported, names, [entry.name for entry in inputs])
    graph_module = without_regions(graph_module, autocast=_autocast(batch))
    clean(graph_module.graph)
    return graph_module


def _exported(step: StepModule, batch: Any, *, lines: bool) -> ExportedProgram:
    tensors = tuple(leaf for _, leaf in leaves(batch) if isinstance(leaf, Tensor))
    try:
        with (
            attributes_kept(step.model),
            python_numbers_kept() as drawn,
            checkpoints_inlined(),
            _quiet(),
            annotations_only(),
            _lines_noted(lines),
            torch.enable_grad(),
        ):
            exported = torch.export.export(step, tensors, strict=False)
    except (LossError, ProgramError):
        raise
    except Exception as error:  # any code of the user's may run here
        raise _not_fixed(error, type(step.model).__name__) from error
    if drawn:
        raise ProgramError(
            f"the step of {type(step.model).__name__} draws numbers from {drawn[0]}",
            cause="a graph of tensor operations would hold the number of one call for ever",
            alternatives=["draw them with torch (torch.rand), so that they are part of the graph"],
        )
    return exported


def _not_fixed(error: Exception, model: str) -> ProgramError:
    construct = construct_behind(error)
    own = "meshwright/parallel/program" in construct.place
    ways = [] if own else [f"compute without it: {construct.place}"]
    return ProgramError(
        f"{model} is not one fixed graph{'' if own else f': {construct}'}",
        cause=_reason(error),
        alternatives=["data parallelism and sharded data parallelism run the model as it is", *ways],
    )


def _reason(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if any("DataDependent" in kind or "DynamicOutputShape" in kind for kind in kinds):
        return "what is computed depends on the values in the batch; splitting a model needs the same operations always"
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"


def _autocast(batch: Any) -> torch.dtype | None:
    kind = next((leaf.device.type for _, leaf in leaves(batch) if isinstance(leaf, Tensor)), "cpu")
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else None


@contextlib.contextmanager
def _lines_noted(noted: bool) -> Iterator[None]:
    """While torch notes the lines of code behind every node, or leaves them out."""
    before = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = not noted
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While torch neither warns, logs nor prints graphs that it cannot finish: the capture says what matters."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
