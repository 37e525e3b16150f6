"""The ways to train that the support table is about, as strategies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

from torch import nn

from meshwright.cost import Axis, Batch, Exchange, Mesh, Pipeline, Sharding, Strategy, Worker
from zoo._zoo_model import EXAMPLES, ZooModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One column of the table.

    Args:
        name: its heading.
        mesh: degrees.
        sharding: over the data axis.
        sequence: split between tensor-parallel regions or whole.
        attention: over a split sequence.
        micro_batches: per step.
        suits: models that it is tried with; the others have nothing that it would split.
    """

    name: str
    mesh: Mesh
    sharding: Sharding = "none"
    sequence: Any = "whole"
    attention: Any = "ring"
    micro_batches: int = 1
    suits: Callable[[ZooModel], bool] = lambda _: True

    @property
    def workers(self) -> int:
        """Processes."""
        return self.mesh.num_workers

    def strategy(self, model: nn.Module) -> Strategy:
        """The method, with placements and cuts left for the product to choose, over what plans inside a host take.

        Batch normalization takes its statistics from one forward, so that a batch is not cut up.
        """
        whole = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        return Strategy(
            workers=tuple(Worker(rank=rank, host="localhost", device="cpu", threads=1) for rank in range(self.workers)),
            mesh=self.mesh,
            batch=Batch(
                size=EXAMPLES, shares=(1,) * self.mesh.num_shares, accumulation=1 if whole else self.micro_batches
            ),
            sharding=self.sharding,
            sequence=self.sequence,
            attention=self.attention,
            pipeline=Pipeline() if self.mesh.pp > 1 else None,
            exchange=Exchange(transport="gloo" if self.sharding == "parameters" else "shared_memory"),
        )


METHODS = (
    Method(name="data", mesh=Mesh(dp_replicate=2)),
    Method(name="sharded data", mesh=Mesh(dp_shard=2), sharding="parameters"),
    Method(name="tensor", mesh=Mesh(tp=2)),
    Method(name="sequence", mesh=Mesh(tp=2), sequence="split"),
    Method(name="context", mesh=Mesh(cp=2)),
    Method(name="pipeline", mesh=Mesh(pp=2), micro_batches=2),
    Method(name="expert", mesh=Mesh(dp_replicate=2, ep=2), suits=lambda model: model.experts),
    Method(
        name="expert × sharded data", mesh=Mesh(dp_shard=4, ep=2), sharding="parameters",
        suits=lambda model: model.experts,
    ),
    Method(name="tensor × sharded data", mesh=Mesh(dp_shard=2, tp=2), sharding="parameters"),
    Method(
        name="pipeline × sharded data × tensor", mesh=Mesh(pp=2, dp_shard=2, tp=2), sharding="gradients",
        micro_batches=2,
    ),
)  # fmt: skip

# One model of dense layers and one of experts stand for all where axes are combined.
COMBINED = ("gpt2", "mixtral")


def _combinations() -> Iterator[Method]:
    """Every two and every three axes in degree 2; shards of parameters and shards of gradients are two methods."""
    for count in (2, 3):
        for axes in combinations(get_args(Axis), count):
            shardings: tuple[Sharding, ...] = ("parameters", "gradients") if "dp_shard" in axes else ("none",)
            for sharding in shardings:
                yield Method(
                    name=" × ".join(axes) + (f" ({sharding})" if sharding != "none" else ""),
                    mesh=Mesh(**dict.fromkeys(axes, 2)),
                    sharding=sharding,
                    micro_batches=2 if "pp" in axes else 1,
                    suits=lambda model: model.name in COMBINED,
                )


COMBINATIONS = tuple(_combinations())
