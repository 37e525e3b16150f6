"""Where this worker stands in the grid of workers, and the process groups of its neighbours along the axes."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch.distributed as dist

from meshwright.cost import Axis, Mesh
from meshwright.parallel._subgroup import subgroup

# Whose gradients are summed: they hold the same parameters and compute other examples, or other parts of a sequence.
DATA_AXES: tuple[Axis, ...] = ("dp_replicate", "dp_shard", "cp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One worker's place.

    Args:
        mesh: degrees of the axes.
        rank: of this worker in the strategy.
        name: of this grid, different from that of every grid before.
        whole: all workers of the strategy.
        pipeline: the workers that have the other stages of this worker's model; None where it has all.
        tensor: those that have the other parts of this worker's tensors; None for one.
        context: those that have the other parts of this worker's sequences; None for one.
        expert: those that have the other experts of this worker's layers; None for one.
        data: those that have the same parameters and other examples; None for one.
        shards: those of them that hold the shards of one copy; None for one.
        replicas: those of them that hold the same shard of other copies; None for one.
        expert_data: those of them that have the same experts too; None for one.
    """

    mesh: Mesh
    rank: int
    name: str
    whole: dist.ProcessGroup
    pipeline: dist.ProcessGroup | None
    tensor: dist.ProcessGroup | None
    context: dist.ProcessGroup | None
    expert: dist.ProcessGroup | None
    data: dist.ProcessGroup | None
    shards: dist.ProcessGroup | None
    replicas: dist.ProcessGroup | None
    expert_data: dist.ProcessGroup | None

    @property
    def groups(self) -> tuple[dist.ProcessGroup, ...]:
        """Those that were made for it."""
        made = (
            self.pipeline, self.tensor, self.context, self.expert, self.data, self.shards, self.replicas,
            self.expert_data,
        )  # fmt: skip
        return tuple(group for group in made if group is not None)

    def close(self) -> None:
        """Closes the connections."""
        for group in self.groups:
            dist.destroy_process_group(group)


def make_grid(mesh: Mesh, group: dist.ProcessGroup | None) -> Grid:
    """Joins this worker to its neighbours; all workers of the strategy call it at the same time.

    Args:
        mesh: degrees of the axes.
        group: the strategy's workers in the order of their ranks; None: all there are.
    """
    whole: Any = dist.group.WORLD if group is None else group
    rank, members = dist.get_rank(whole), dist.get_process_group_ranks(whole)
    message = [uuid4().hex]
    dist.broadcast_object_list(message, src=members[0], group=whole)
    ranks = {
        "pipeline": mesh.peers(rank, "pp"),
        "tensor": mesh.peers(rank, "tp"),
        "context": mesh.peers(rank, "cp"),
        "expert": mesh.expert_peers(rank),
        "data": mesh.peers(rank, *DATA_AXES),
        "shards": mesh.peers(rank, "dp_shard", "cp"),
        "replicas": mesh.peers(rank, "dp_replicate"),
        "expert_data": same_experts(mesh, rank),
    }
    made = {
        name: subgroup([members[peer] for peer in peers], f"meshwright/{message[0]}/{name}", whole)
        for name, peers in ranks.items()
    }
    return Grid(mesh=mesh, rank=rank, name=message[0], whole=whole, **made)


def same_experts(mesh: Mesh, rank: int) -> tuple[int, ...]:
    """The ranks among a rank's data peers that hold the same experts, itself included."""
    place = mesh.coordinate(rank, "ep")
    return tuple(peer for peer in mesh.peers(rank, *DATA_AXES) if mesh.coordinate(peer, "ep") == place)
