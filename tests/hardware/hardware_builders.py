"""Small clusters for the tests of this room."""

from meshwright.hardware import Cluster, Device, Host, MatrixRate
from meshwright.units import GIB


def measured(identity: str, *, load: float = 0.1, memory: int = 4096 * GIB) -> Cluster:
    """A measured machine with one rate."""
    rate = MatrixRate(dtype="float32", size=256, rate=1e11)
    device = Device(kind="cpu", name="processor", cores=2, memory=memory, source="measured", matrix_rates=(rate,))
    return Cluster(
        name="here",
        identity=identity,
        measured_at="2026-01-01T00:00:00+00:00",
        load=load,
        hosts=(Host(name="here", device=device),),
    )
