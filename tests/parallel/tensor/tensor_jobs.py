"""A step of a local program on every worker, put together again beside the same step on one device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meshwright.parallel.program import Program, capture_program
from meshwright.parallel.tensor import GroupCommunicator, Rates, Scheme, Shards, choose_placements, localize
from zoo import zoo_model


@dataclass(frozen=True)
class Parity:
    """How far the workers' step is from one device's, as each worker sees it."""

    loss: float
    gradients: float
    buffers: float
    scheme: Scheme
    share: float


def zoo_parity(name: str, sequence: str, rates: Rates | None = None) -> Parity:
    """A model of the zoo."""
    return parity(zoo_model(name).make, sequence, rates)


def parity(
    make: Callable[[], tuple[nn.Module, Any, Any]], sequence: Any, rates: Rates | None = None, **options: Any
) -> Parity:
    """One step in double precision on one device and on all workers of the world."""
    model, loss, batch = make()
    model, batch = model.double(), tree_map(_double, batch)
    program = in_double(capture_program(model, loss, batch))
    before = {name: buffer.clone() for name, buffer in program.buffers.items()}
    expected = _step(program, batch)
    gradients = {name: p.grad.clone() for name, p in program.parameters.items() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in program.buffers.items()}
    for name, buffer in program.buffers.items():
        buffer.copy_(before[name])
    for parameter in program.parameters.values():
        parameter.grad = None
    communicator = GroupCommunicator(dist.group.WORLD)
    scheme = choose_placements(program, degree=communicator.size, sequence=sequence, rates=rates, **options)
    local = localize(program, scheme, communicator=communicator)
    shards = Shards({**program.parameters, **program.buffers}, scheme.placements, communicator)
    total = sum(parameter.numel() for parameter in program.parameters.values())
    shards.split()
    held = sum(parameter.numel() for parameter in program.parameters.values())
    found = _step(local, batch)
    difference = size = 0.0
    for name, gradient in gradients.items():
        part = program.parameters[name].grad
        whole = shards.whole(name, torch.zeros_like(program.parameters[name]) if part is None else part)
        difference += float((whole - gradient).square().sum())
        size += float(gradient.square().sum())
    return Parity(
        loss=abs(found - expected) / abs(expected),
        gradients=(difference / size) ** 0.5,
        buffers=max(
            (_distance(shards.whole(name, program.buffers[name]), buffers[name]) for name in buffers), default=0
        ),
        scheme=scheme,
        share=held / total,
    )


def in_double(program: Program) -> Program:
    """A program without casts to single precision, whose rounding would hide errors."""
    for node in program.graph_module.graph.nodes:
        node.args = tree_map(_wider, node.args)
        node.kwargs = tree_map(_wider, node.kwargs)
    program.graph_module.recompile()
    return replace(program)


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _step(program: Program, batch: Any) -> float:
    output = program(batch)
    loss = output[0] / output[1] if isinstance(output, tuple) else output
    loss.backward()
    return float(loss)


def _distance(found: Tensor, expected: Tensor) -> float:
    if not expected.is_floating_point():
        return float(not torch.equal(found, expected))
    return float((found - expected).norm() / (expected.norm() + 1))
