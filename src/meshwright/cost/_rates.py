"""One worker's rates: the rows of its device measured under the conditions nearest to the worker's own."""

from collections.abc import Sequence
from math import log2
from typing import TypeVar

import numpy as np

from meshwright.cost._workload import Column
from meshwright.errors import HardwareError
from meshwright.hardware import Device, MatrixRate, OperationRate
from meshwright.units import Seconds

Row = TypeVar("Row", MatrixRate, OperationRate)

# What a kind is priced as where the device has no row of its own: the nearest in what limits it.
SUBSTITUTES: dict[str, tuple[str, ...]] = {
    "transcendental": ("pointwise", "copy"),
    "normalization": ("reduction", "pointwise", "copy"),
    "reduction": ("pointwise", "copy"),
    "random": ("pointwise", "copy"),
    "indexing": ("copy", "pointwise"),
    "pointwise": ("copy",),
    "other": ("pointwise", "copy"),
    "copy": ("pointwise",),
    "optimizer": ("pointwise", "copy"),
    "optimizer_fused": ("optimizer", "pointwise", "copy"),
}


class Rates:
    """How fast one worker computes.

    Args:
        device: what the worker runs on.
        threads: threads it computes with; an accelerator's rates have 1.
        processes: workers that compute at the same time on the host.
    """

    def __init__(self, device: Device, *, threads: int, processes: int) -> None:
        self.device = device
        self.threads = threads if device.kind == "cpu" else 1
        self.processes = processes if device.kind == "cpu" else 1
        self._found: dict[tuple[str, str], list[OperationRate]] = {}

    def matrix(self, dtype: str, library: str, edges: Column) -> Column:
        """FLOP/s of products whose edge (cube root of rows × inner × columns) is `edges`.

        Between measured sizes the rate is interpolated on logarithmic axes; beyond them the nearest one holds.

        Raises:
            HardwareError: the device has no rate for this data type.
        """
        rows = [row for row in self.device.matrix_rates if row.dtype == dtype and row.library == library]
        if not rows and library != "default":
            return self.matrix(dtype, "default", edges)
        if not rows:
            known = sorted({row.dtype for row in self.device.matrix_rates})
            raise HardwareError(
                f"{self.device.name} has no matrix rate for {dtype}",
                cause=f"its rates come from: {self.device.source}",
                alternatives=[f"data types with a rate: {', '.join(known) or 'none'}"],
                command="meshwright hardware --fresh",
            )
        rows = _nearest(rows, self.threads, self.processes)
        scale = self.threads / rows[0].threads
        return _interpolated([row.size for row in rows], [row.rate for row in rows], edges) * scale

    def has_matrix(self, dtype: str) -> bool:
        """Whether the device has a matrix rate for this data type."""
        return any(row.dtype == dtype for row in self.device.matrix_rates)

    def bandwidth(self, kind: str, sizes: Column, *, variant: str = "default") -> Column:
        """Work per second (B/s; FLOP/s for convolution, attention, recurrent) of operations that touch `sizes` bytes.

        Raises:
            HardwareError: the device has no rate for this kind nor for one like it.
        """
        rows = self._rows(kind, variant)
        if not rows:
            raise HardwareError(
                f"{self.device.name} has no rate for {kind} operations",
                cause=f"its rates come from: {self.device.source}",
                alternatives=[
                    "measure it, on a host that has it",
                    "a device of the catalogue that is like it, with the figures that differ: "
                    'device = { catalogue = "h100", name = "…", memory = "96GiB" }',
                ],
                command="meshwright hardware --fresh --save cluster.toml",
            )
        scale = self.threads / rows[0].threads
        return _interpolated([row.size or 1 for row in rows], [row.bandwidth for row in rows], sizes) * scale

    def has(self, kind: str, *, variant: str = "default") -> bool:
        """Whether this very kind and variant was measured."""
        return any(row.kind == kind and row.variant == variant for row in self.device.operation_rates)

    def overhead(self, kind: str, *, variant: str = "default") -> Seconds:
        """Fixed time of one operation of a kind (s): that of its smallest measured size; 0 where unknown."""
        rows = self._rows(kind, variant)
        return min(rows, key=lambda row: row.size).overhead if rows else 0.0

    def _rows(self, kind: str, variant: str) -> list[OperationRate]:
        """The nearest rows of a kind, or of one like it; looked up once."""
        if (kind, variant) not in self._found:
            self._found[kind, variant] = self._looked_up(kind, variant)
        return self._found[kind, variant]

    def _looked_up(self, kind: str, variant: str) -> list[OperationRate]:
        for name in (kind, *SUBSTITUTES.get(kind, ())):
            for wanted in dict.fromkeys((variant, "default")):
                rows = [row for row in self.device.operation_rates if row.kind == name and row.variant == wanted]
                if rows:
                    return _nearest(rows, self.threads, self.processes)
        return []


def _nearest(rows: Sequence[Row], threads: int, processes: int) -> list[Row]:
    """The rows measured with the nearest number of threads, and among these with the nearest number of processes."""
    by_threads = min({row.threads for row in rows}, key=lambda count: (abs(log2(count / threads)), -count))
    rows = [row for row in rows if row.threads == by_threads]
    by_processes = min({row.processes for row in rows}, key=lambda count: (abs(log2(count / processes)), -count))
    return sorted((row for row in rows if row.processes == by_processes), key=lambda row: row.size)


def _interpolated(sizes: Sequence[float], rates: Sequence[float], at: Column) -> Column:
    return np.exp(np.interp(np.log(np.maximum(at, 1.0)), np.log(sizes), np.log(rates)))
