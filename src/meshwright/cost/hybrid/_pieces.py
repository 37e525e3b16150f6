"""What one unit of each kind costs a worker for one micro-batch: time, and bytes that are held."""

from dataclasses import dataclass, replace

import numpy as np

from meshwright.cost._workload import Column, Workload
from meshwright.cost.hybrid._units import Units, gradient_bytes, parameter_bytes, trained_elements
from meshwright.graph import Graph
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What a worker holds of one unit of each kind, whatever the batch (B, elements, tensors).

    Args:
        parameters: bytes.
        gradients: bytes.
        expert: bytes of gradients that belong to experts.
        elements: trained ones.
        tensors: trained ones.
        expert_parameters: of `parameters`, those of experts.
        expert_elements: of `elements`, those of experts.
    """

    parameters: Column
    gradients: Column
    expert: Column
    elements: Column
    tensors: Column
    expert_parameters: Column
    expert_elements: Column

    def in_shards(self, ratio: float) -> "Weights":
        """Weights that, in as many parts as others' shards, come to what a worker keeps of what is in shards.

        Args:
            ratio: in how many times as many parts what is no expert's is.
        """
        if ratio == 1:
            return self
        more = ratio - 1
        return replace(
            self, parameters=self.parameters + more * self.expert_parameters,
            gradients=self.gradients + more * self.expert, elements=self.elements + more * self.expert_elements,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """What one unit of each kind costs for one micro-batch.

    Args:
        forward: computing (s).
        backward: computing (s).
        attention: part of `forward` that mixes positions, beside which keys and values can travel (s).
        activations: saved for the backward (B).
        inputs: what recomputation keeps instead (B).
        transient: most that comes and goes besides (B).
        launches: kernels that a host launches.
        away: saved for the backward in the hosts' memory (B).
    """

    forward: Column
    backward: Column
    attention: Column
    activations: Column
    inputs: Column
    transient: float
    launches: Column
    away: Column

    @property
    def total(self) -> Seconds:
        """Forward and backward of one unit of each kind."""
        return float(self.forward.sum() + self.backward.sum())


def weights_of(graph: Graph, units: Units) -> Weights:
    """What a worker holds of each kind of unit.

    Args:
        graph: the local one.
    """
    expert = graph.splits.expert if graph.splits is not None else None
    owned = {item.path for item in expert.parameters} if expert is not None else set()
    routed = np.array([float(any(path in owned for path in item.paths)) for item in graph.parameters])

    def total(values: Column) -> Column:
        return units.by_kind(values, units.parameters, units.held)

    trained = np.array([float(item.trainable) for item in graph.parameters])
    return Weights(
        parameters=total(parameter_bytes(graph)),
        gradients=total(gradient_bytes(graph)),
        expert=total(gradient_bytes(graph) * routed),
        elements=total(trained_elements(graph)),
        tensors=total(trained),
        expert_parameters=total(parameter_bytes(graph) * routed),
        expert_elements=total(trained_elements(graph) * routed),
    )


def pieces_of(workload: Workload, units: Units, times: Column, launches: Column, *, examples: float) -> Pieces:
    """What one micro-batch costs.

    Args:
        workload: of the local graph.
        times: of every operation (s).
        launches: kernels of every operation.
        examples: of the micro-batch; a part of one where the sequence is split.
    """
    graph = workload.graph
    forward = np.where(workload.in_forward, times, 0.0)
    sizes = workload.saved.at(examples)
    inputs = np.array([0.0, *(block.input_size.at(examples) for block in graph.blocks), 0.0])
    activations = units.by_kind(sizes, units.activations, units.saved)
    return Pieces(
        forward=units.by_kind(forward, units.operations, units.times),
        backward=units.by_kind(times - forward, units.operations, units.times),
        attention=units.by_kind(np.where(workload.mixes, forward, 0.0), units.operations, units.times),
        activations=activations,
        inputs=np.minimum(inputs, activations),
        transient=graph.transient.at(examples),
        launches=units.by_kind(launches, units.operations, units.times),
        away=np.zeros_like(activations),
    )


def with_blocks_away(pieces: Pieces) -> Pieces:
    """The same with all that blocks save in the hosts' memory: what is before and after them stays."""
    away = pieces.activations.copy()
    away[0] = away[-1] = 0.0
    activations = pieces.activations - away
    return replace(pieces, away=away, activations=activations, inputs=np.minimum(pieces.inputs, activations))
