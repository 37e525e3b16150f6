"""How far this machine's predictions were from what was measured, and so what to multiply the next one by."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """Factors from recorded outcomes; the defaults are for a machine that has none.

    Args:
        time: measured over predicted step time.
        spread: standard deviation of ln(measured / predicted); how wide a prediction's interval is.
        memory: measured over predicted peak memory.
    """

    time: float = 1.0
    spread: float = 0.15
    memory: float = 1.0
