r"""What follows a worker's last backward at least, by the units that it has.

With $a$ for every unit in any case, and gradients that take $e$ to exchange beside a backward of $w$, a worker waits
for $\sum a + \max(\sum e - κ w, φ \sum e) - s$, where $s$ is what rounding to whole buckets may spare.
"""

from dataclasses import dataclass

import numpy as np

from meshwright.cost._workload import Column
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class After:
    """What follows the last backward, of a layout whatever its stages are.

    Args:
        every: of a unit of each kind in any case: update, state, coding, gathering (s).
        reduced: exchange of the gradients of a unit of each kind (s).
        spared: what rounding to whole buckets may spare of an exchange, at most (s).
        hiding: share of the last micro-batch's backward that hides the exchange, at most.
        share: of the exchange that is waited for in any case.
        once: whatever a worker has (s).
        meetings: of the mean worker with those of other islands (s).
    """

    every: Column
    reduced: Column
    spared: Seconds
    hiding: float
    share: float
    once: Seconds
    meetings: Seconds

    def of_mean(self, units: Column, window: Seconds) -> Seconds:
        """Of the mean worker, and so in the mean over workers at least, but for `once` (s).

        Args:
            units: of each kind on it.
            window: a micro-batch's backward on it at most (s).
        """
        reduced = float(self.reduced @ units)
        waited = max(reduced - self.hiding * window, self.share * reduced)
        return self.meetings + max(0.0, float(self.every @ units) + waited - self.spared)

    def hides(self, units: Column, window: Seconds) -> float:
        """The share of a backward to count as hiding, so that most is waited for: `hiding`, or 0 for `share` alone."""
        reduced = float(self.reduced @ units)
        return self.hiding if reduced - self.hiding * window > self.share * reduced else 0.0

    def of_units(self, hiding: float) -> Column:
        """Of a unit of each kind, of which `hiding` times its backward is to be taken off, and `spared` once (s).

        Args:
            hiding: of `hides`.
        """
        return self.every + (1.0 if hiding else self.share) * self.reduced

    def rate(self, most: Column) -> Column:
        """What a unit of each kind adds over what it takes for a micro-batch, at least.

        Args:
            most: that a unit of each kind takes for one (s).
        """
        whole = np.maximum(most, 1e-30)
        return np.maximum(self.of_units(0.0) / whole, self.of_units(self.hiding) / whole - self.hiding)
