"""Captures the whole training step of a model without its memory: the part of `graph` that loads torch.

Reading order: `capture_batch` (examples), `capture_copy` (fake copies), `capture_step` (one step, watched),
`capture_recorder` and `capture_operations` (each operation and its cost), `capture_accelerator` (where a model on the
meta device will run), `capture_lifetimes` (memory),
`capture_blocks` and `capture_replay` (repeated blocks once), `capture_recording` (two batch sizes make a line),
`capture_optimizer`, `capture_traits`, `capture_gap`.
"""

import copy
import gc
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from meshwright.errors import BatchError, CaptureError, LossError
from meshwright.graph._graph import Graph, Parameter
from meshwright.graph.capture_accelerator import autocast_of, with_kernels_of
from meshwright.graph.capture_batch import batch_size, resized
from meshwright.graph.capture_blocks import repeated_blocks
from meshwright.graph.capture_copy import fake_batch, fake_mode, fake_model
from meshwright.graph.capture_gap import Construct, construct_behind, is_own_fault, needs_values
from meshwright.graph.capture_optimizer import optimizer_state
from meshwright.graph.capture_recording import Recording, Scaling
from meshwright.graph.capture_step import LossFunction, record_step
from meshwright.graph.capture_traits import parameter_paths, step_traits
from meshwright.hardware import memory_available
from meshwright.units import format_bytes

__all__ = ["batch_size", "capture"]

_REAL_EXAMPLES = 4
_SPARE = 0.8


def capture(model: nn.Module, optimizer: Optimizer, loss: LossFunction, batch: Any) -> Graph:
    """What one training step does: model, loss, backward, optimizer.

    The step runs twice on fake copies, at the batch's size and at another one; a line through both gives every
    quantity for any size. Model, optimizer and random states stay as they are. A step that reads values is run on
    a real copy with a few examples instead, and `Graph.gaps` says which construct forced it.

    Args:
        model: any module, on any device, meta included.
        optimizer: over its parameters.
        loss: `loss(model, batch)`, a scalar mean or `(total, weight)`.
        batch: the global batch.

    Raises:
        BatchError: the batch holds no examples, or its tensors disagree about how many.
        LossError: the loss is no scalar, or depends on no parameter.
        CaptureError: the step fails by itself, or needs values and does not fit the memory there is.
    """
    return capture_with(model, optimizer, loss, batch, groups=repeated_blocks(model))


def capture_with(
    model: nn.Module, optimizer: Optimizer, loss: LossFunction, batch: Any, *, groups: Sequence[Sequence[str]]
) -> Graph:
    """Like `capture`, with the groups of equal modules given; none: every module is captured by itself."""
    _check_shapes(model)
    with _random_states_kept(), _quiet():
        scaling, gaps = _recorded(model, loss, batch, groups)
        state = optimizer_state(optimizer)
    whole = scaling.whole
    traits = step_traits(whole.traits | scaling.other.traits, model)
    traits |= {"weighted_loss"} if whole.weighted else set()
    traits |= {"data_dependent"} if gaps else set()
    traits |= {"tf32"} if torch.backends.cuda.matmul.fp32_precision == "tf32" else set()
    return Graph(
        model=type(model).__name__,
        batch_size=batch_size(batch),
        operations=scaling.operations(),
        parameters=_parameters(model, whole),
        activations=scaling.activations(),
        transient=scaling.of(lambda recording: recording.transient),
        peak=scaling.of(lambda recording: recording.peak),
        buffer_size=sum(buffer.nbytes for buffer in model.buffers()),
        batch_bytes=scaling.of(lambda recording: recording.batch_bytes),
        blocks=scaling.blocks(),
        optimizer=state,
        traits=tuple(sorted(traits)),
        gaps=(*gaps, *scaling.gaps()),
    )


def _recorded(
    model: nn.Module, loss: LossFunction, batch: Any, groups: Sequence[Sequence[str]]
) -> tuple[Scaling, tuple[str, ...]]:
    """Two recordings: fake, with repeated blocks once; else every block; else one batch size; else real."""
    examples = batch_size(batch)
    attempts = [(_sizes(examples), groups), (_sizes(examples), ()), ((examples, examples), ())]
    failure: Exception | None = None
    for sizes, blocks in attempts if groups else attempts[1:]:
        try:
            return Scaling(*(_fake_recording(model, loss, resized(batch, size), blocks) for size in sizes)), ()
        except (LossError, BatchError, CaptureError):
            raise
        except Exception as error:  # any code of the user's may run here
            if is_own_fault(error):
                raise
            failure = failure or error
            if needs_values(error):
                break
    assert failure is not None
    return _real_recordings(model, loss, batch, construct_behind(failure))


def _sizes(examples: int) -> tuple[int, int]:
    """Two batch sizes to draw a line through; a batch of 1 is left out, many kernels treat it in a way of its own."""
    if examples == 1:
        return 2, 4
    return (examples, examples // 2) if examples >= 4 else (examples, 2 * examples)


def _fake_recording(model: nn.Module, loss: LossFunction, batch: Any, groups: Sequence[Sequence[str]]) -> Recording:
    mode = fake_mode()
    with _random_states_kept(), autocast_of(model):
        copied = with_kernels_of(fake_model(model, mode), model)
        return record_step(copied, loss, fake_batch(batch, mode), groups=groups, mode=mode)


def _real_recording(model: nn.Module, loss: LossFunction, batch: Any) -> Recording:
    with _random_states_kept():
        return record_step(copy.deepcopy(model), loss, copy.deepcopy(batch))


def _real_recordings(
    model: nn.Module, loss: LossFunction, batch: Any, construct: Construct
) -> tuple[Scaling, tuple[str, ...]]:
    """Two recordings of a real copy on a few examples."""
    few = min(batch_size(batch), _REAL_EXAMPLES)
    other = few // 2 if few >= 2 else 2
    _check_memory(model, construct)
    try:
        recordings = [_real_recording(model, loss, resized(batch, size)) for size in (few, other)]
    except (LossError, BatchError, CaptureError):
        raise
    except Exception as error:
        real = construct_behind(error)
        raise CaptureError(
            f"the step fails on a batch of {few} examples: {type(error).__name__}: {error}",
            cause=f"raised at {real.place}: {real.code}",
            alternatives=["run the script with plain Python until its first step works"],
        ) from error
    finally:
        gc.collect()
    gap = f"{construct}; captured by running every module on {few} and {other} real examples instead"
    return Scaling(recordings[0], recordings[1]), (gap,)


def _check_memory(model: nn.Module, construct: Construct) -> None:
    ways = [f"compute without it: {construct.place}", "capture a smaller configuration of the same model"]
    if any(tensor.device.type == "meta" for tensor in (*model.parameters(), *model.buffers())):
        raise CaptureError(
            f"{type(model).__name__} cannot be captured without values: {construct}",
            cause="the model is on the meta device, so it has no values to run with",
            alternatives=ways,
        )
    needed = 2 * sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    available = _free_memory(next((tensor.device for tensor in model.parameters()), torch.device("cpu")))
    if needed > _SPARE * available:
        raise CaptureError(
            f"{type(model).__name__} cannot be captured without values: {construct}",
            cause=f"a real copy and its gradients need {format_bytes(needed)}; {format_bytes(available)} are free",
            alternatives=ways,
        )


def _free_memory(device: torch.device) -> int:
    """What may be allocated on a device now (B)."""
    if device.type == "cpu":
        return memory_available()
    return torch.accelerator.get_memory_info(device)[0]


def _check_shapes(model: nn.Module) -> None:
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise CaptureError(
            f"{len(lazy)} parameters of {type(model).__name__} have no shape yet, {lazy[0]} first",
            cause="lazy modules get their parameters when they are first called",
            alternatives=["call model(inputs) once before the optimizer is made"],
        )


def _parameters(model: nn.Module, recording: Recording) -> tuple[Parameter, ...]:
    """Every parameter; those of repeated blocks once, unless they are tied."""
    places = {
        f"{path}.": number for number, first in enumerate(recording.blocks) for path in first.record.paths
    }  # fmt: skip
    counts: dict[object, int] = {}
    stands: dict[object, tuple[nn.Parameter, tuple[str, ...]]] = {}
    for parameter, paths in parameter_paths(model):
        prefix = next((place for place in places if paths[0].startswith(place)), None)
        alone = prefix is None or len(paths) > 1
        key = paths if alone else (places[prefix], paths[0].removeprefix(prefix))
        stands.setdefault(key, (parameter, paths))
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        Parameter(
            paths=paths,
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            trainable=parameter.requires_grad,
            repeats=counts[key],
        )
        for key, (parameter, paths) in stands.items()
    )


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Puts torch's, numpy's and Python's random states back."""
    states = random.getstate(), np.random.get_state()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = range(torch.accelerator.device_count()) if accelerator is not None else []
    kind = accelerator.type if accelerator is not None else "cuda"
    try:
        with torch.random.fork_rng(devices=list(devices), device_type=kind):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """While torch does not log a stack trace for each fake kernel that fails: the capture says what did."""
    logger = logging.getLogger(FakeTensorMode.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
