"""Quantities that grow with the batch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A quantity that grows with the number of examples: `fixed + per_example * examples`."""

    fixed: float = 0.0
    per_example: float = 0.0

    def at(self, examples: float) -> float:
        """The quantity for a batch of `examples`."""
        return self.fixed + self.per_example * examples
