"""The grid: hand-counted coordinates, and every group a partition of the ranks."""

from hypothesis import given
from hypothesis import strategies as st

from meshwright.cost import Mesh

degree = st.integers(1, 3)
meshes = st.builds(Mesh, pp=degree, dp_replicate=degree, dp_shard=degree, cp=degree, tp=degree)


def test_ranks_count_along_the_tensor_axis_first():
    mesh = Mesh(pp=2, dp_replicate=2, cp=2, tp=2)
    coordinates = [mesh.coordinate(11, axis) for axis in ("pp", "dp_replicate", "dp_shard", "cp", "tp")]
    assert coordinates == [1, 0, 0, 1, 1]
    assert mesh.share(11) == 0
    assert mesh.share(15) == 1
    assert mesh.peers(11, "tp") == (10, 11)
    assert mesh.peers(11, "pp") == (3, 11)
    assert mesh.peers(11, "dp_replicate", "cp") == (9, 11, 13, 15)


def test_experts_are_spread_over_neighbouring_data_ranks():
    mesh = Mesh(dp_shard=4, ep=2, tp=2)
    assert [mesh.coordinate(rank, "ep") for rank in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert mesh.expert_peers(6) == (4, 6)
    assert mesh.expert_peers(3) == (1, 3)


@given(meshes)
def test_peers_are_a_partition(mesh):
    groups = {mesh.peers(rank, "cp", "tp") for rank in range(mesh.num_workers)}
    assert sorted(rank for group in groups for rank in group) == list(range(mesh.num_workers))
    assert {len(group) for group in groups} == {mesh.cp * mesh.tp}
