"""What sums of compressed or rounded gradients cost: fewer bytes on the link, and encoding.

Encoding takes passes over the gradients, counted in copies of them: measured on one core of a Zen 3 processor, 10M
gradients in float32, processor time, against a copy of 2.2 ms. Messages of every other worker are decoded where all get
all of them, two n-ths otherwise.
"""

from math import prod

from meshwright.cost._communication import CollectiveCost, moved_share
from meshwright.cost._compression import Compression
from meshwright.cost._strategy import Strategy
from meshwright.cost._workload import Workload
from meshwright.units import Bytes, BytesPerSecond

# Copies that it takes to encode all gradients once, and to decode one message of them.
_ENCODING = {"int8": 3.3, "int4": 3.5, "sign": 5.3, "top_k": 12.0, "random_k": 0.2}
_DECODING = {"int8": 2.0, "int4": 1.7, "sign": 2.9, "top_k": 1.6, "random_k": 0.1}
_HALF = 0.8, 1.0
# Products of a matrix with a factor, and its orthonormal form, per rank.
_POWER_PER_RANK = 4.3
# Adding what was carried over, and taking the sum out of the padded memory.
_CARRYING = 2.5
_SAMPLE = 2**20


def is_lossy(strategy: Strategy) -> bool:
    """Whether gradients are compressed, or sent in 16 bits."""
    return strategy.exchange.compression is not None or strategy.precision.reduction != "as_written"


def lossy_cost(
    exact: CollectiveCost, strategy: Strategy, workload: Workload, *, group: int, copying: BytesPerSecond
) -> CollectiveCost:
    """The price of summing a bucket, per byte of its float32 gradients.

    Args:
        exact: of the all-reduce that it stands for, over the same workers.
        strategy: says what is sent.
        workload: whose gradients they are.
        group: workers.
        copying: bytes read and written over time when gradients are copied (B/s).
    """
    sent = sent_share(strategy, workload, group=group) / moved_share("all_reduce", group)
    encoding = _copies(strategy, group=group) * 2 / copying
    if strategy.exchange.compression is None and strategy.exchange.transport in ("direct", "direct_packed"):
        # rounded while the link is busy with the bucket before
        return CollectiveCost(latency=exact.latency, bandwidth=1 / max(sent / exact.bandwidth, encoding))
    return CollectiveCost(latency=2 * exact.latency, bandwidth=1 / (sent / exact.bandwidth + encoding))


def sent_share(strategy: Strategy, workload: Workload, *, group: int) -> float:
    """What a worker sends, over its float32 gradients."""
    choice = strategy.exchange.compression
    whole = moved_share("all_reduce", group)
    if choice is None:
        return whole / 2
    if choice.method == "powersgd":
        return whole * _factor_share(choice, workload)
    encoded = choice.message(_SAMPLE) / (4 * _SAMPLE)
    return encoded * (group - 1 if _is_gathered(choice, group) else whole)


def carried_size(strategy: Strategy, workload: Workload) -> Bytes:
    """What a worker keeps of left-out gradients from step to step (B)."""
    choice = strategy.exchange.compression
    if choice is None or strategy.num_workers == 1:
        return 0
    return 4 * workload.trainable_elements * (2 if choice.method == "sign" else 1)


def _copies(strategy: Strategy, *, group: int) -> float:
    choice = strategy.exchange.compression
    if choice is None:
        return _HALF[0] + 2 * _HALF[1]
    if choice.method == "powersgd":
        return _CARRYING + _POWER_PER_RANK * choice.rank
    encoding, decoding = _ENCODING[choice.method], _DECODING[choice.method]
    if _is_gathered(choice, group):
        return _CARRYING + encoding + (1 + group) * decoding
    return _CARRYING + encoding * (1 + 1 / group) + decoding * (3 + 1 / group)


def _is_gathered(choice: Compression, group: int) -> bool:
    """As `exchange` routes messages: everybody gets everybody's, or each its part."""
    return group == 2 or choice.method in ("top_k", "random_k")


def _factor_share(choice: Compression, workload: Workload) -> float:
    shapes = [(item.shape, item.repeats) for item in workload.graph.parameters if item.trainable]
    whole = sum(4 * prod(shape) * repeats for shape, repeats in shapes)
    return sum(choice.factors(shape) * repeats for shape, repeats in shapes) / max(1, whole)
