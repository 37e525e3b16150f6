"""The method that a strategy names."""

from collections.abc import Sequence

import torch

from meshwright.cost import Compression
from meshwright.exchange.compression._blocks import ByteBlocks, NibbleBlocks
from meshwright.exchange.compression._codec import Codec
from meshwright.exchange.compression._encoded_sum import EncodedSum, Route
from meshwright.exchange.compression._half import HalfSum
from meshwright.exchange.compression._method import Method
from meshwright.exchange.compression._power import PowerSum
from meshwright.exchange.compression._random import Drawn
from meshwright.exchange.compression._sign import Signs
from meshwright.exchange.compression._top import Largest


def make_method(
    choice: Compression | torch.dtype,
    *,
    shapes: Sequence[Sequence[int]],
    offsets: Sequence[int],
    numel: int,
    device: torch.device,
    size: int,
) -> Method:
    """A method for one bucket.

    Args:
        choice: a strategy's `exchange.compression`, or the data type of its reduction.
        shapes: of the bucket's parameters as they lie in memory.
        offsets: where each begins.
        numel: length of the bucket's gradients.
        device: where they are.
        size: workers.
    """
    if isinstance(choice, torch.dtype):
        return HalfSum(choice)
    if choice.method == "powersgd":
        return PowerSum(shapes, offsets, numel, rank=choice.rank, device=device)
    momentum = choice.momentum if choice.method == "sign" else 0.0
    return EncodedSum(make_codec(choice), numel, device, size=size, route=_route(choice, size), momentum=momentum)


def make_codec(choice: Compression) -> Codec:
    """The encoding of a strategy's `exchange.compression`, where it is one."""
    if choice.method == "int8":
        return ByteBlocks(choice.block)
    if choice.method == "int4":
        return NibbleBlocks(choice.block)
    if choice.method == "sign":
        return Signs(choice.block)
    if choice.method == "top_k":
        return Largest(choice.share, block=choice.block)
    return Drawn(choice.share, block=choice.block)


def _route(choice: Compression, size: int) -> Route:
    """Two workers send each other everything and encode once; positions chosen by one worker are not the others'."""
    return "gathered" if size == 2 or choice.method in ("top_k", "random_k") else "scattered"
