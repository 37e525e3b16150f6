"""What is sent instead of all of a gradient, and how that is summed?

In: a bucket of gradients on every worker. Out: nearly their sum, the same bits on every worker; what was left out is
carried over to the next step. Reading order: `_method` (what a method does), `_codec` (what an encoding does) with
`_blocks`, `_sign`, `_top`, `_random`; `_encoded_sum`, which sums encoded messages; `_half` (16 bits, nothing carried
over), `_power` (factors of low rank), `_choice` (which one, by name). One more encoding is one more file and a line in
`_choice`.
"""

from meshwright.exchange.compression._blocks import ByteBlocks as ByteBlocks
from meshwright.exchange.compression._choice import make_codec as make_codec
from meshwright.exchange.compression._choice import make_method as make_method
from meshwright.exchange.compression._codec import Codec as Codec
from meshwright.exchange.compression._encoded_sum import EncodedSum as EncodedSum
from meshwright.exchange.compression._method import Method as Method
