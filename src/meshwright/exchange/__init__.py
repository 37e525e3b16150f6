"""How do workers agree? Gradients summed in buckets while the backward goes on.

In: gradients of every worker. Out: their sum on every worker, or on the one that owns the parameter.
Reading order: `_transport` (what a transport does), `_ordinary_memory`, `_process_group`, `shared_memory` (inside a
host), `direct` (over connections of its own), `_hierarchical` (inside hosts and between them), `_choice` (which one, by
name), `_buckets`, `_schedule`, `_reduction` (how a bucket is summed: exactly, or by a method of
`compression` over a `_wire` on a `_thread`; `_exactness`: exactly for a while), `_gradients`, `_owned_gradients`,
`_broadcast`, `_hand_out`. The probe of `hardware` measures what pyproject.toml names as `meshwright.transports`.
"""

from meshwright.exchange._broadcast import TensorBroadcast as TensorBroadcast
from meshwright.exchange._choice import make_reduction as make_reduction
from meshwright.exchange._choice import make_transport as make_transport
from meshwright.exchange._exactness import Exactness as Exactness
from meshwright.exchange._gradients import GradientExchange as GradientExchange
from meshwright.exchange._hierarchical import HierarchicalTransport as HierarchicalTransport
from meshwright.exchange._owned_gradients import OwnedGradientExchange as OwnedGradientExchange
from meshwright.exchange._process_group import ProcessGroupTransport as ProcessGroupTransport
from meshwright.exchange._reduction import ExactReduction as ExactReduction
from meshwright.exchange._reduction import LossyReduction as LossyReduction
from meshwright.exchange._reduction import Reduction as Reduction
from meshwright.exchange._rounded_reduction import RoundedReduction as RoundedReduction
from meshwright.exchange._thread import CommunicationThread as CommunicationThread
from meshwright.exchange._transport import Transfer as Transfer
from meshwright.exchange._transport import Transport as Transport
from meshwright.exchange._wire import Wire as Wire
from meshwright.exchange.direct import DirectTransport as DirectTransport
from meshwright.exchange.shared_memory import Mailboxes as Mailboxes
from meshwright.exchange.shared_memory import Segment as Segment
from meshwright.exchange.shared_memory import SharedMemoryTransport as SharedMemoryTransport
from meshwright.exchange.shared_memory import shares_memory as shares_memory
