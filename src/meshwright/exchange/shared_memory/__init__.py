"""How do the processes of one host exchange tensors? Through memory that all of them see.

In: tensors of the CPU. Out: collectives (`_transport`), and messages from one worker to another (`_mailboxes`).
Reading order: `_segment` (memory with an address that another process can attach), `_arenas` (what all workers allocate
alike), `_signals` (semaphores in a segment), `_queue` (collectives in their order, moved on by whoever waits),
`_transport`, `_mailboxes`.
"""

from meshwright.exchange.shared_memory._arenas import shares_memory as shares_memory
from meshwright.exchange.shared_memory._mailboxes import Mailboxes as Mailboxes
from meshwright.exchange.shared_memory._segment import Segment as Segment
from meshwright.exchange.shared_memory._segment import host_identity as host_identity
from meshwright.exchange.shared_memory._transport import SharedMemoryTransport as SharedMemoryTransport
