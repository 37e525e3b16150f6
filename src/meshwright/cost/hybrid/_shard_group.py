"""Workers that share out what is in shards: how many, and how far apart they stand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshwright.cost.hybrid._layout import Layout
from meshwright.cost.hybrid._order import mean_stride


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """Workers with a shard each, of what all data ranks have and of experts.

    Args:
        degree: how many share out what all have.
        stride: how many devices apart they stand, in the mean.
        experts: how many share out experts.
        apart: how many devices apart those stand.
        unevenness: how much more a link carries where shards differ, over equal ones.
    """

    degree: int
    stride: int
    experts: int
    apart: int
    unevenness: float = 1.0


def shard_group(layout: Layout) -> ShardGroup:
    """The group of a layout's workers."""
    return ShardGroup(
        layout.shard_group, layout.stride_among("dp_shard", "cp"), layout.expert_group, _of_experts(layout),
        layout.unevenness,
    )  # fmt: skip


def shard_groups(layout: Layout, degrees: Sequence[int]) -> Iterator[ShardGroup]:
    """The groups of a layout whose data ranks are replicas yet, with so many shards: inside replicas, and outside.

    Args:
        degrees: each divides the data ranks.
    """
    mesh, shares, near = layout.mesh, layout.mesh.num_shares, layout.stride("dp_replicate")
    context, among = (mesh.cp, layout.stride("cp")), _of_experts(layout)
    for degree in degrees:
        for stride in {near, near * (shares // degree)}:
            step = mean_stride((degree, stride), context)
            yield ShardGroup(degree * mesh.cp, step, layout.expert_group, among)


def _of_experts(layout: Layout) -> int:
    return layout.stride_among("dp_replicate", "dp_shard", "cp") * layout.mesh.ep
