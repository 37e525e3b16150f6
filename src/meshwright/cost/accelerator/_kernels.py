r"""How long kernels take on an accelerator, by shape.

A product of $m × k$ by $k × n$ takes $\sqrt{t_c^2 + t_m^2}$: with the sustained rate $R$,
$t_c = \frac{2mkn}{R} (1 + \frac{k_0}{k} + \frac{p}{mn})$, where $k_0$ is what a short inner dim loses and $p$ how many
elements of the output the device computes at once; $t_m$ is the time to read and write it. Starting and ending a tile
takes its time at any rate, so that $k_0$ grows with the rate of the data type.
"""

from dataclasses import dataclass
from typing import TypeVar

from meshwright.cost._workload import Column
from meshwright.cost.accelerator._calibration import Calibration
from meshwright.cost.accelerator._machine import Machine
from meshwright.cost.accelerator._setup import MatrixType
from meshwright.units import BytesPerSecond, FLOPPerSecond, Seconds

# One kernel's figures, or a column of many kernels'.
Times = TypeVar("Times", float, Column)

# Output elements of 132 tiles of 128 × 256, which an H100 computes at once, per FLOP/s of a device of 1e15.
_AT_ONCE = 132 * 128 * 256 / 1e15
# A backward of fused attention computes the scores again: 5 products for the forward's 2, at a lower share.
_FLASH_BACKWARD = 2.5 / 0.85
# Heads of this width reach half of fused attention's rate.
_HALF_HEAD = 16.0
_HALF_ITEM = 2


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernel times of one machine at one matrix type.

    Args:
        rate: sustained by large products.
        half_rate: sustained in 16 bits.
        attention_rate: of products inside fused attention, before its own share.
        bandwidth: sustained by kernels that memory limits.
        item_size: bytes of an element in memory.
    """

    rate: FLOPPerSecond
    half_rate: FLOPPerSecond
    attention_rate: FLOPPerSecond
    bandwidth: BytesPerSecond
    item_size: int
    calibration: Calibration

    def matrix(self, rows: Times, inner: Times, columns: Times, *, batch: Times | float = 1.0) -> Times:
        """Time of `batch` products."""
        return self._product(rows, inner, columns, batch, self.rate)

    def matrix_pair(self, rows: float, inner: float, columns: float, *, batch: float = 1.0) -> tuple[Seconds, Seconds]:
        """Time of the forward, and of the backward's two products."""
        return (
            self.matrix(rows, inner, columns, batch=batch),
            self.matrix(rows, columns, inner, batch=batch) + self.matrix(inner, rows, columns, batch=batch),
        )

    def moving(self, size: Times) -> Times:
        """Time of kernels that read and write `size` bytes."""
        return size / self.bandwidth

    def fused_attention(self, tokens: Times, keys: Times, width: Times, head: Times) -> tuple[Times, Times]:
        """Time of causal attention that keeps no scores: forward, backward.

        Args:
            tokens: queries.
            keys: of the whole sequence.
            width: of all heads.
            head: of one.
        """
        work = 2 * tokens * keys * width
        forward = work / (self.attention_rate * self.calibration.kernels.flash * head / (head + _HALF_HEAD))
        return forward, forward * _FLASH_BACKWARD

    def scored_attention(self, rows: float, sequence: float, head: float) -> tuple[Seconds, Seconds]:
        """Time of attention that keeps its scores: forward, backward.

        Args:
            rows: sequences times heads.
            sequence: tokens.
            head: width of one.
        """
        shares = self.calibration.kernels
        rate = min(self.rate, self.half_rate * shares.half)
        product = 2 * self._product(sequence, head, sequence, rows, rate)
        passes = 10 * (shares.scores if self.item_size == _HALF_ITEM else shares.plain_scores)
        scores = self.moving(rows * sequence * sequence * self.item_size * passes)
        return product + scores, 2 * product + 1.2 * scores

    def _product(self, rows: Times, inner: Times, columns: Times, batch: Times | float, rate: FLOPPerSecond) -> Times:
        shares = self.calibration.kernels
        outputs = batch * rows * columns
        lost = (
            shares.inner * rate / (self.half_rate * shares.half) / inner + shares.fill * self.rate * _AT_ONCE / outputs
        )
        computing = 2 * outputs * inner / rate * (1 + lost)
        size = self.item_size * batch * (rows * inner + inner * columns + rows * columns)
        moving = size / self.bandwidth
        return (computing * computing + moving * moving) ** 0.5 + shares.launch


def kernels(machine: Machine, matrix_type: MatrixType, calibration: Calibration) -> Kernels:
    """Kernel times of a machine at a matrix type."""
    shares = calibration.kernels
    sustained = calibration.devices.get(machine.device, shares.steady if machine.holds_clock else shares.other_devices)
    single = machine.single * (shares.single if machine.single > machine.plain else shares.plain)
    # Devices without a plain rate, which multiply in 16 bits only, have one way to do it.
    plain = min(machine.plain, machine.plain * shares.plain * sustained) or single * sustained
    rate = {
        "half": machine.half * shares.half * sustained,
        "float8": machine.float8 * shares.float8 * sustained,
        "float8_rows": machine.float8 * shares.float8 * shares.row_scaled * sustained,
        "single": single * sustained,
        "plain": plain,
    }[matrix_type]
    return Kernels(
        rate,
        machine.half * sustained,
        plain if matrix_type == "plain" and machine.plain else machine.half * sustained,
        machine.bandwidth * shares.memory,
        4 if matrix_type in ("single", "plain") else 2,
        calibration,
    )
