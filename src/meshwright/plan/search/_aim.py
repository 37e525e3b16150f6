"""What a search makes small, and what it must stay within."""

from dataclasses import dataclass

from meshwright.cost.hybrid import Price
from meshwright.plan._goal import Objective
from meshwright.units import Dollars, Joules, Seconds, Watts


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """The objective and its limits, per step.

    Args:
        minimize: what is made small.
        longest: no step may take longer (s); infinite where nothing is said.
        dearest: no step may cost more ($).
        most_energy: no step may take more (J).
    """

    minimize: Objective = "time"
    longest: Seconds = float("inf")
    dearest: Dollars = float("inf")
    most_energy: Joules = float("inf")

    def value(self, price: Price) -> float:
        """What is made small, of a layout; time, money and energy for as much progress as an exact step makes."""
        if self.minimize == "memory":
            return float(price.peak)
        return price.steps * {"time": price.step, "cost": price.money, "energy": price.energy}[self.minimize]

    def least(
        self, step: Seconds, power: Watts, price: Dollars, *, peak: float = 0.0, steps: float = 1.0
    ) -> float:  # fmt: skip
        """A lower bound on the value, from one on the step; infinite where a limit cannot be kept.

        Args:
            peak: a lower bound on the fullest worker's memory (B).
            steps: to a loss, over those of exact training.
            power: of all devices in use (W).
            price: of all devices in use, an hour ($).
        """
        energy, money = power * step, price * step / 3600
        if step > self.longest or money > self.dearest or energy > self.most_energy:
            return float("inf")
        if self.minimize == "memory":
            return peak
        return steps * {"time": step, "cost": money, "energy": energy}[self.minimize]

    def allows(self, price: Price) -> bool:
        """Whether a layout stays within the limits."""
        return price.step <= self.longest and price.money <= self.dearest and price.energy <= self.most_energy
