"""Whether packing pays on the links that there are, found out before the first step.

A plan's prices are of the links as they were measured, or as a file says. Packed values take fewer bytes and more work
of the processor, so that on a fast link they come later than plain ones. Both are tried once on all links together;
packed values travel only where they come clearly sooner to the slowest worker.
"""

import time

import torch

from meshwright.exchange.direct._transport import DirectTransport
from meshwright.units import MIB, Bytes, Seconds

# Many times what shaped links and switches let through at once (256 KiB on a link of 100 Mbit/s here: with half a MiB
# packing seemed to gain nothing there); a third of a second at 100 Mbit/s.
_TRIED: Bytes = 4 * MIB
_ROUNDS = 2
# The processor that packs has gradients to compute besides.
_WORTHWHILE = 0.9


def settle_packing(transport: DirectTransport) -> DirectTransport:
    """Tries sums both ways, and leaves the transport with the one that suits; all its workers do it together."""
    values = torch.randn(_TRIED // 4, generator=torch.Generator().manual_seed(transport.rank))
    seconds = torch.zeros(2, dtype=torch.float64)
    for place, packing in enumerate(("none", "exponents")):
        transport.packing = packing
        seconds[place] = min(_sum_time(transport, values) for _ in range(_ROUNDS))
    # plain: what is agreed on must not depend on what it decides
    transport.packing = "none"
    transport.all_reduce(seconds).wait()
    plain, packed = seconds.tolist()
    transport.packing = "exponents" if pays(plain, packed) else "none"
    return transport


def pays(plain: Seconds, packed: Seconds) -> bool:
    """Whether packed values come so much sooner that the work is worth it.

    Args:
        plain: what a sum takes without packing (s).
        packed: with it (s).
    """
    return packed < _WORTHWHILE * plain


def _sum_time(transport: DirectTransport, values: torch.Tensor) -> Seconds:
    tensor = values.clone()
    begun = time.perf_counter()
    transport.all_reduce(tensor).wait()
    return time.perf_counter() - begun
