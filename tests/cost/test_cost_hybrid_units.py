"""What a row of units saves: every block its own input, wherever that was made."""

import random
from dataclasses import replace

import torch
from torch import Tensor, nn

import search_builders as build
from meshwright.cost import Mesh
from meshwright.cost.hybrid import HybridPricer, Layout, Replica
from meshwright.graph import Linear, Operation
from meshwright.graph.capture import capture
from meshwright.hardware import parse_cluster
from meshwright.plan import with_splits


class Block(nn.Module):
    """Normalizes its input, which is saved for that, and adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(self.norm(x))


def _saved(blocks: int) -> list[float]:
    """Bytes that one unit of each kind saves for a micro-batch of 8."""
    model = nn.Sequential(nn.Linear(16, 16), *(Block() for _ in range(blocks)), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters())
    graph = capture(model, optimizer, lambda model, batch: model(batch).sum(), torch.zeros(8, 16))
    pricer = HybridPricer(with_splits(graph), parse_cluster("h100:1"))
    replica = Replica(count=1, kinds=(0,), examples=8.0)
    layout = Layout(mesh=Mesh(), replicas=(replica,))
    return pricer.pieces_for(layout, replica, 0).activations.tolist()


def test_inputs_of_blocks_are_not_saved_by_what_comes_last() -> None:
    """Input, normalized input, mean and deviation of 8 rows of 16 floats; the last product's input besides."""
    few, many = _saved(2), _saved(6)
    assert few == many
    assert many[1] == 8 * (64 + 64 + 4 + 4)
    assert many[-1] == 8 * 64


def test_causal_attention_counts_half_of_all_pairs() -> None:
    """Of 3 FLOP an example, one of attention: 3 for each of 4 examples, or 2.5."""

    def operation(kind: str, flops: float) -> Operation:
        return Operation(
            name="aten.mm", kind=kind, phase="forward", module="first", dtype="float32", repeats=1,
            flops=Linear(per_example=flops), bytes_read=Linear(), bytes_written=Linear(),
        )  # fmt: skip

    drawn = build.random_graph(random.Random(2))
    graph = replace(drawn, batch_size=4, operations=(operation("matrix", 2.0), operation("attention", 1.0)))
    cluster = parse_cluster("h100:1")
    assert HybridPricer(graph, cluster).flops == 12.0
    assert HybridPricer(replace(graph, traits=("causal_attention",)), cluster).flops == 10.0
