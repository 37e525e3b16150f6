"""What sums of compressed or rounded gradients cost: fewer bytes on the link, and encoding.

Encoding takes passes over the gradients, counted in copies of them: measured on one core of a Zen 3 processor, 10M
gradients in float32, processor time, against a copy of 2.2 ms. Messages of every other worker are decoded where all get
all of them, two n-ths otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from meshwright.cost._communication import CollectiveCost, moved_share
from meshwright.cost._compression import Compression
from meshwright.cost._strategy import Exchange, Precision, Strategy
from meshwright.cost._workload import Workload
from meshwright.graph import Graph
from meshwright.hardware import CollectiveName
from meshwright.units import Bytes, BytesPerSecond, Seconds

# Gradients that coding was measured on, and the copies of them that it was counted in.
CODED: Bytes = 40_000_000
# Copies that it takes to encode all gradients once, and to decode one message of them.
_ENCODING = {"int8": 3.3, "int4": 3.5, "sign": 5.3, "top_k": 12.0, "random_k": 0.2}
_DECODING = {"int8": 2.0, "int4": 1.7, "sign": 2.9, "top_k": 1.6, "random_k": 0.1}
_HALF = 0.8, 1.0
# Products of a matrix with a factor, and its orthonormal form, per rank.
_POWER_PER_RANK = 4.3
# Adding what was carried over, and taking the sum out of the padded memory.
_CARRYING = 2.5
_SAMPLE = 2**20
# How parameters in shards are gathered where gradients are compressed (as in `parallel`).
SHARDED = Compression(method="int8")


def is_lossy(strategy: Strategy) -> bool:
    """Whether gradients are compressed, or sent in 16 bits."""
    return strategy.exchange.compression is not None or strategy.precision.reduction != "as_written"


def sends_less(exchange: Exchange, precision: Precision) -> bool:
    """Whether gradients travel as anything else than themselves; of islands the messages are compressed instead."""
    return of_gradients(exchange) is not None or precision.reduction != "as_written"


def of_gradients(exchange: Exchange) -> Compression | None:
    """What is sent instead of gradients; islands compress what they send each other, not their own gradients."""
    return exchange.compression if exchange.updates is None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LossyCost:
    """What summing a bucket costs whose gradients are compressed or rounded.

    Args:
        cost: per byte of its float32 gradients.
        coding: part of its time in which a core encodes and decodes (0 to 1).
    """

    cost: CollectiveCost
    coding: float


def lossy_cost(
    exact: CollectiveCost, strategy: Strategy, workload: Workload, *, group: int, copying: BytesPerSecond
) -> LossyCost:
    """The price of summing a bucket.

    Args:
        exact: of the all-reduce that it stands for, over the same workers.
        strategy: says what is sent.
        workload: whose gradients they are.
        group: workers.
        copying: bytes read and written over time when gradients are copied (B/s).
    """
    choice, transport = strategy.exchange.compression, strategy.exchange.transport
    carried = sent_share(strategy, workload, group=group) / moved_share("all_reduce", group) / exact.bandwidth
    coded = coding_time(choice, 1.0, group=group, copying=copying)
    # rounded while the link is busy with the bucket before
    beside = choice is None and transport in ("direct", "direct_packed")
    seconds, rounds = (max(carried, coded), 1) if beside else (carried + coded, 2)
    cost = CollectiveCost(latency=rounds * exact.latency, bandwidth=1 / seconds)
    return LossyCost(cost=cost, coding=coded / seconds)


def coding_time(choice: Compression | None, size: float, *, group: int, copying: BytesPerSecond) -> Seconds:
    """What encoding and decoding gradients takes a worker (s).

    Args:
        choice: what is sent; None: 16 bits.
        size: of the gradients in float32 (B).
        group: workers.
        copying: bytes read and written over time when gradients are copied (B/s).
    """
    return encoding_copies(choice, group=group) * 2 * size / copying


def sent_share(strategy: Strategy, workload: Workload, *, group: int) -> float:
    """What a worker sends, over its float32 gradients."""
    return sent_along(routes(strategy.exchange.compression, workload.graph, group=group), group=group)


def sent_along(listed: Sequence[tuple[CollectiveName, float]], *, group: int) -> float:
    """What a worker sends in all of these collectives, over the float32 gradients; `listed` is of `routes`."""
    return sum(share * moved_share(name, group) for name, share in listed)


def routes(
    choice: Compression | None, graph: Graph, *, group: int, owned: bool = False
) -> tuple[tuple[CollectiveName, float], ...]:
    """The collectives that a sum of gradients is made of, each with the size of its tensor over the float32 gradients.

    As `exchange` sends messages: everybody gets everybody's, or each its part and then the sums of all parts.

    Args:
        choice: what is sent; None: 16 bits.
        graph: whose gradients they are.
        group: workers.
        owned: whether a bucket's sum is for the one worker that owns it.
    """
    if choice is None:
        encoded = 0.5
    elif choice.method == "powersgd":
        half = _factor_share(choice, graph) / 2
        return ("all_reduce", half), ("all_reduce", half)
    else:
        encoded = encoded_share(choice)
        if owned:
            return (("all_to_all", encoded),)
    if _is_gathered(choice, group):
        return (("all_gather", encoded * group),)
    return ("all_to_all", encoded), ("all_gather", encoded)


def encoded_share(choice: Compression) -> float:
    """A message over the float32 gradients that it is made of; for PowerSGD that depends on their shapes."""
    return choice.message(_SAMPLE) / (4 * _SAMPLE)


def carried_size(strategy: Strategy, workload: Workload) -> Bytes:
    """What a worker keeps of left-out gradients from step to step (B)."""
    if strategy.num_workers == 1:
        return 0
    return 4 * workload.trainable_elements * carried_copies(strategy.exchange.compression)


def carried_copies(choice: Compression | None) -> int:
    """Copies of the gradients in float32 that are kept from step to step: what was left out, and averages."""
    if choice is None:
        return 0
    return 2 if choice.method == "sign" else 1


def encoding_copies(choice: Compression | None, *, group: int) -> float:
    """Copies of the gradients that encoding and decoding them takes the time of.

    Args:
        choice: what is sent; None: 16 bits.
        group: workers.
    """
    if choice is None:
        return _HALF[0] + 2 * _HALF[1]
    if choice.method == "powersgd":
        return _CARRYING + _POWER_PER_RANK * choice.rank
    encoding, decoding = _ENCODING[choice.method], _DECODING[choice.method]
    if _is_gathered(choice, group):
        return _CARRYING + encoding + (1 + group) * decoding
    return _CARRYING + encoding * (1 + 1 / group) + decoding * (3 + 1 / group)


def shard_copies(choice: Compression, *, group: int) -> tuple[float, float]:
    """Copies of a module that gathering it in 8 bits takes the time of, and those of its gradients, scattering them.

    Owners encode their shards and everybody decodes all; each encodes its gradients, notes what that leaves out, and
    decodes everybody's message for its shard.
    """
    gathered = _ENCODING[SHARDED.method] / group + _DECODING[SHARDED.method]
    return gathered, _CARRYING + _ENCODING[choice.method] + 2 * _DECODING[choice.method]


def _is_gathered(choice: Compression | None, group: int) -> bool:
    """Whether everybody gets everybody's message, or each its part."""
    return group == 2 or (choice is not None and choice.method in ("top_k", "random_k"))


def _factor_share(choice: Compression, graph: Graph) -> float:
    shapes = [(item.shape, item.repeats) for item in graph.parameters if item.trainable]
    whole = sum(4 * prod(shape) * repeats for shape, repeats in shapes)
    return sum(choice.factors(shape) * repeats for shape, repeats in shapes) / max(1, whole)
