"""What would a strategy cost that combines axes? Tensor, sequence, context, expert, pipeline and data, priced together.

In: a `Graph` with its splits, a `Cluster`, a `Layout` (a strategy without its list of workers). Out: a `Price`.
Reading order: `_layout` (the data), `_order` (which axes' neighbours stand near each other), `_units` (blocks from
which stages are made), `_local` (what one worker of a split model runs), `_devices` (what operations and updates take:
as measured, or as fitted to published runs), `_ring` (attention over a split sequence), `_pieces` (what a unit costs),
`_topology` and `_exchanges` (collectives by axis), `_shard_group` and `_data_exchange` (gradients) with `_apart`
(islands), `_loading` (batches), `_waves`, `_pipeline_time`, `_step`, `_held` (memory), `_price`, `_hybrid`, which puts
them together, `_least` with `_after` (bounds), and `_conversion` (layouts and strategies).
"""

from meshwright.cost.hybrid._after import After as After
from meshwright.cost.hybrid._apart import Standing as Standing
from meshwright.cost.hybrid._apart import standing as standing
from meshwright.cost.hybrid._conversion import layout_of as layout_of
from meshwright.cost.hybrid._conversion import order_of as order_of
from meshwright.cost.hybrid._conversion import sorts_of as sorts_of
from meshwright.cost.hybrid._conversion import strategy_of as strategy_of
from meshwright.cost.hybrid._data_exchange import Shards as Shards
from meshwright.cost.hybrid._devices import Devices as Devices
from meshwright.cost.hybrid._devices import devices_of as devices_of
from meshwright.cost.hybrid._held import Stages as Stages
from meshwright.cost.hybrid._held import activation_bytes as activation_bytes
from meshwright.cost.hybrid._held import peak_moment as peak_moment
from meshwright.cost.hybrid._hybrid import HybridPricer as HybridPricer
from meshwright.cost.hybrid._layout import AttentionMode as AttentionMode
from meshwright.cost.hybrid._layout import Layout as Layout
from meshwright.cost.hybrid._layout import Replica as Replica
from meshwright.cost.hybrid._least import Least as Least
from meshwright.cost.hybrid._order import ANY_ORDER as ANY_ORDER
from meshwright.cost.hybrid._order import USUAL_ORDER as USUAL_ORDER
from meshwright.cost.hybrid._order import Order as Order
from meshwright.cost.hybrid._order import live as live
from meshwright.cost.hybrid._order import mean_stride as mean_stride
from meshwright.cost.hybrid._order import normal as normal
from meshwright.cost.hybrid._order import strides as strides
from meshwright.cost.hybrid._order import suits as suits
from meshwright.cost.hybrid._pipeline_time import Form as Form
from meshwright.cost.hybrid._pipeline_time import in_flight as in_flight
from meshwright.cost.hybrid._price import Price as Price
from meshwright.cost.hybrid._topology import Group as Group
from meshwright.cost.hybrid._topology import crossed_tier as crossed_tier
