r"""How values travel: in which data type, and with their exponents packed or not.

A float32 is a sign, 8 bits of exponent and 23 of mantissa. Mantissas of gradients are noise; exponents are not: they
take some 3 bits where each has the shortest code that its frequency allows (Huffman). So float32 loses 5 of 32 bits,
bfloat16 5 of 16, and every bit comes back. Seen on the gradients of a GPT of 10M parameters, one core of an EPYC
processor: 15.6 % and 31 % less, 1.9 ns a byte to pack and 1.2 to unpack: worth it on links slower than some 0.4 Gbit/s.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from meshwright.errors import WorkerError
from meshwright.exchange._rounding import rounded

Packing = Literal["none", "exponents"]
# Plain Huffman codes: no search for repetitions, of which there are none.
LEVEL, WINDOW, MEMORY = 1, -15, 9
PACKED_TYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Travel:
    """What becomes of values on their way.

    Args:
        dtype: that they are rounded to.
        packing: `exponents`: float32 and bfloat16 without what their exponents repeat; other types as they are.
    """

    dtype: torch.dtype
    packing: Packing = "none"

    def rounded(self, values: Tensor) -> Tensor:
        """What arrives of flat values."""
        return rounded(values, self.dtype)

    def message(self, values: Tensor) -> Tensor:
        """Bytes that say rounded values: packed, or the values themselves where that is no longer."""
        plain = values.view(torch.uint8)
        if self.packing == "none" or self.dtype not in PACKED_TYPES or not values.numel():
            return plain
        packed = _packed(values)
        return packed if packed.numel() < plain.numel() else plain

    def read(self, message: Tensor, numel: int) -> Tensor:
        """The values that a message says.

        Raises:
            WorkerError: they are not as many as here.
        """
        if message.numel() == numel * self.dtype.itemsize:
            return message.view(self.dtype)
        if self.packing == "none" or self.dtype not in PACKED_TYPES or message.numel() > numel * self.dtype.itemsize:
            raise _odd(message, f"{numel * self.dtype.itemsize} bytes")
        return _unpacked(message, self.dtype, numel)


def _packed(values: Tensor) -> Tensor:
    """Lower halves of float32, then signs with 7 bits of mantissa, then coded exponents."""
    halves = values.view(torch.int16).view(values.numel(), -1)
    upper = halves[:, -1].contiguous()
    exponents = (upper >> 7).to(torch.uint8)
    rest = ((upper & 0x7F) | ((upper >> 8) & 0x80)).to(torch.uint8)
    coder = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY, zlib.Z_HUFFMAN_ONLY)
    coded = bytearray(coder.compress(exponents.numpy().data))
    coded += coder.flush()
    lower = halves[:, :-1].contiguous().view(-1).view(torch.uint8)
    return torch.cat([lower, rest, torch.frombuffer(coded, dtype=torch.uint8)])


def _unpacked(message: Tensor, dtype: torch.dtype, numel: int) -> Tensor:
    plain = numel * (dtype.itemsize - 1)
    try:
        coded = zlib.decompress(message[plain:].numpy().data, WINDOW, numel)
    except zlib.error as error:
        raise _odd(message, f"{numel} packed values ({error})") from error
    if len(coded) != numel:
        raise _odd(message, f"{numel} packed values")
    rest = message[plain - numel : plain].to(torch.int16)
    upper = torch.frombuffer(bytearray(coded), dtype=torch.uint8).to(torch.int16)
    upper.bitwise_left_shift_(7).bitwise_or_(rest & 0x7F).bitwise_or_((rest & 0x80) << 8)
    if dtype == torch.bfloat16:
        return upper.view(dtype)
    halves = torch.empty(numel, 2, dtype=torch.int16)
    halves[:, 0] = message[: 2 * numel].view(torch.int16)
    halves[:, 1] = upper
    return halves.view(dtype).view(-1)


def _odd(message: Tensor, expected: str) -> WorkerError:
    return WorkerError(
        f"a message of {message.numel()} bytes came where {expected} were expected",
        cause="the workers do not have the same parameters, or not the same types",
    )
