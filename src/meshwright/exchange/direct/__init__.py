"""How do workers exchange tensors without a library? Over TCP connections between every two of them.

In: tensors of the CPU. Out: collectives in one or two steps, with both directions of every link busy.
Reading order: `_connections` (who connects to whom), `_conversation` (what is said for one collective), `_flows` (one
thread that moves it on all connections), `_travel` (how values travel: rounded, packed), `_collectives` (each a
conversation), `_transport`, `_settling` (whether packing pays, found out on the links).
"""

from meshwright.exchange.direct._settling import settle_packing as settle_packing
from meshwright.exchange.direct._transport import DirectTransport as DirectTransport
