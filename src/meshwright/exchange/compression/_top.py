"""The largest values alone, each with its position."""

from math import ceil

import torch
from torch import Tensor

from meshwright.exchange.compression._codec import Codec

# Positions are counted inside spans of so many values: two bytes each.
SPAN = 65536
# Values that the threshold is estimated from; the share that passes it is then off by a few per cent.
SAMPLE = 20_000
# So much more than is sent passes the threshold, so that the largest of those are the largest of all.
MARGIN = 1.25


class Largest(Codec):
    """Counts by span in int32, then positions in 16 bits, then values in bfloat16.

    Sorting ten million values takes longer than sending them: a threshold estimated from a sample lets a few more than
    wanted pass, and only those are sorted. What rounding to bfloat16 leaves out is left out like all the rest.

    Args:
        share: of the values that are sent (0 to 1).
        block: the number of values is a multiple of it.
    """

    def __init__(self, share: float, *, block: int) -> None:
        self._share = share
        self._block = block

    @property
    def block(self) -> int:
        """The number of values is a multiple of it."""
        return self._block

    def compress(self, values: Tensor, *, draw: int) -> Tensor:
        """Positions and values of the largest."""
        wanted = self._wanted(values.numel())
        positions = _largest(values, wanted, draw=draw)
        counts = torch.bincount(positions // SPAN, minlength=_num_spans(values.numel())).to(torch.int32)
        entries = torch.zeros(2, wanted, dtype=torch.int16, device=values.device)
        entries[0, : len(positions)] = (positions % SPAN).to(torch.int16)
        entries[1, : len(positions)] = values[positions].to(torch.bfloat16).view(torch.int16)
        return torch.cat([counts.view(torch.uint8), entries.view(-1).view(torch.uint8)])

    def decompress(self, message: Tensor, into: Tensor, *, weight: float, draw: int) -> None:
        """Adds the values at their positions."""
        del draw
        cut = _num_spans(into.numel()) * 4
        counts = message[:cut].clone().view(torch.int32).long()
        entries = message[cut:].clone().view(torch.int16).view(2, -1)[:, : int(counts.sum())]
        spans = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        positions = (entries[0].long() & (SPAN - 1)) + spans * SPAN
        # no position comes twice in a message
        into[positions] += entries[1].contiguous().view(torch.bfloat16).float() * weight

    def refine(self) -> bool:
        """Twice as many, up to all."""
        if self._share >= 1:
            return False
        self._share = min(1.0, 2 * self._share)
        return True

    def _wanted(self, numel: int) -> int:
        return min(numel, ceil(numel * self._share))


def _largest(values: Tensor, wanted: int, *, draw: int) -> Tensor:
    """Positions of (almost always exactly) the wanted number of largest values, in ascending order."""
    if wanted == values.numel():
        return torch.arange(wanted, device=values.device)
    threshold = _threshold(values, min(1.0, MARGIN * wanted / values.numel()), draw=draw)
    found = [(part.abs() >= threshold).nonzero().view(-1) + SPAN * number for number, part in _spans(values)]
    positions = torch.cat(found)
    if len(positions) > wanted:
        kept = values[positions].abs().topk(wanted, sorted=False).indices
        positions = positions[kept].sort().values
    return positions


def _threshold(values: Tensor, share: float, *, draw: int) -> Tensor:
    """What about this share of the values reaches."""
    sample = values
    if len(values) > SAMPLE:
        generator = torch.Generator().manual_seed(draw)
        places = torch.randint(len(values), (SAMPLE,), generator=generator)
        sample = values[places.to(values.device)]
    sample = sample.abs()
    return sample.kthvalue(max(1, round(len(sample) * (1 - share)))).values


def _spans(values: Tensor) -> list[tuple[int, Tensor]]:
    return list(enumerate(values.split(SPAN)))


def _num_spans(numel: int) -> int:
    return -(-numel // SPAN)
