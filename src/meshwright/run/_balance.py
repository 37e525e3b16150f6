"""Shares that follow what workers can do: a host that becomes slower gets fewer examples of the same global batch."""

from collections.abc import Sequence
from statistics import median

from meshwright.units import Seconds

# Steps that have to agree before shares change, and how long they have to last: a hiccup is not a slow host.
WINDOW = 8
SHORTEST_WINDOW: Seconds = 1.0
# A change has to make the slowest worker's part of the step this much shorter.
LEAST_GAIN = 0.08
# Shares are in thousandths of the batch; a worker's memory was planned for its first share.
UNITS = 1000
MOST_GROWTH = 2.0


class Balance:
    """Decides shares from everybody's seconds per example; all workers see the same numbers and decide alike.

    Args:
        shares: relative share of each data rank.
        rank: this worker's data rank.
    """

    def __init__(self, shares: Sequence[int], *, rank: int) -> None:
        total = sum(shares)
        self.shares = tuple(shares)
        self._first = tuple(share / total for share in shares)
        self._rank = rank
        self._pace: Seconds = 0.0
        self._window: list[tuple[Seconds, ...]] = []

    @property
    def report(self) -> tuple[Seconds, ...]:
        """This worker's seconds per example in its last step, in its place; added up over the workers it is all's."""
        return tuple(self._pace if place == self._rank else 0.0 for place in range(len(self.shares)))

    def timed(self, seconds: Seconds, examples: int) -> None:
        """Takes this worker's computing time of a step."""
        self._pace = seconds / examples if examples else 0.0

    def note(self, paces: Sequence[Seconds], *, size: int) -> str:
        """Takes everybody's reports; a sentence where the shares change with the next step, else nothing.

        Args:
            paces: seconds per example, by data rank.
            size: examples of the global batch.
        """
        if min(paces) <= 0:
            return ""
        self._window.append(tuple(paces))
        if len(self._window) < WINDOW or sum(map(max, self._window)) * size / len(paces) < SHORTEST_WINDOW:
            return ""
        usual = [median(row[place] for row in self._window) for place in range(len(paces))]
        self._window = []
        wanted = self._suited(usual)
        if _slowest(wanted, usual) > (1 - LEAST_GAIN) * _slowest(self.shares, usual):
            return ""
        before, self.shares = self.shares, wanted
        slowest = max(range(len(usual)), key=lambda place: usual[place])
        return (
            f"meshwright: worker {slowest} takes {usual[slowest] / min(usual):.1f} × as long for an example as the "
            f"fastest; shares of the batch were {_percent(before)}, and are {_percent(wanted)} now"
        )

    def _suited(self, paces: Sequence[Seconds]) -> tuple[int, ...]:
        """In proportion to speed; what would outgrow a worker's memory goes to the others in proportion."""
        limits = [MOST_GROWTH * first for first in self._first]
        full: set[int] = set()
        while True:
            left = 1 - sum(limits[place] for place in full)
            speed = sum(1 / pace for place, pace in enumerate(paces) if place not in full)
            parts = [
                limits[place] if place in full else left / pace / speed if speed else 0.0
                for place, pace in enumerate(paces)
            ]
            over = {place for place, part in enumerate(parts) if part > limits[place] * (1 + 1e-9)}
            if not over:
                return tuple(max(1, round(UNITS * part)) for part in parts)
            full |= over


def _slowest(shares: Sequence[int], paces: Sequence[Seconds]) -> float:
    return max(share * pace for share, pace in zip(shares, paces, strict=True)) / sum(shares)


def _percent(shares: Sequence[int]) -> str:
    return ", ".join(f"{100 * share / sum(shares):.0f} %" for share in shares)
