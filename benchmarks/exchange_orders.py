"""What hosts of the exchange benchmark are told to train, and what they answer; files that both sides read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUCKET = 2**20  # B, of gradients that are exchanged together
INTERVAL = 16  # steps between two meetings of the ways whose hosts train apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a run between two changes of the links.

    Args:
        steps: of every host; 0: as many as each host manages in the time.
        seconds: the time (s), where there are no steps.
    """

    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One way of training from fresh weights.

    Args:
        way: its name.
        phases: one after another.
        seed: of weights and examples.
        rate: of learning.
        batch: examples of a step, of all hosts together.
        bucket: bytes of a bucket of gradients (B).
        evaluate: steps between two looks at the held-out loss; 0: none.
        is_uneven: whether shares of the batch follow the measured speed of the hosts.
        is_witnessed: whether the first gradient is compared with that of one device.
    """

    way: str
    phases: tuple[Phase, ...]
    seed: int = 0
    rate: float = 1e-3
    batch: int = 16
    bucket: int = BUCKET
    evaluate: int = 0
    is_uneven: bool = False
    is_witnessed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a run gave.

    Args:
        seconds: of each step of host 0, by phase (s).
        speeds: steps in a second of each host, by phase (1/s).
        losses: steps, and host 0's held-out loss after them.
        shares: examples of each host.
        gradient_error: of the first gradient to one device's, over its norm; None: not compared.
    """

    seconds: tuple[tuple[float, ...], ...]
    speeds: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[int, float], ...]
    shares: tuple[int, ...]
    gradient_error: float | None = None


def write_orders(path: Path, orders: Sequence[Order]) -> None:
    """Orders as a file."""
    path.write_text(json.dumps([asdict(order) for order in orders]))


def read_orders(path: Path) -> list[Order]:
    """The orders in a file."""
    found = json.loads(path.read_text())
    return [Order(**item | {"phases": tuple(Phase(**phase) for phase in item["phases"])}) for item in found]


def write_answer(path: Path, answer: Answer) -> None:
    """An answer as a file that is there as a whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(answer)))
    draft.rename(path)


def read_answer(path: Path) -> Answer:
    """The answer in a file."""
    found: dict[str, Any] = json.loads(path.read_text())
    nested = {name: tuple(map(tuple, found[name])) for name in ("seconds", "speeds", "losses")}
    return Answer(**found | nested | {"shares": tuple(found["shares"])})
