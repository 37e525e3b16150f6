"""Which layout is best? Degrees, sharding, schedule, stages and recomputation in one exact search.

In: a `HybridPricer`, a `Goal`, an `Aim`. Out: a `Result`, with how far from the best it may be.
Reading order: `_aim` (what is made small), `_limits` (of memory), `_choices` (what may be combined), `_orders` and
`_reordered` (of axes on the devices), `_sending` (of gradients), `_shards` (unequal ones) and `_frame` (the space but
for stages), `_cover` (what to compute again), `_burden` (a worker's time and memory), `_rooms`, `_bubble`, `_span`,
`_work`, `_relaxed`, `_walk` (bounds: of memory alone, of pipelines and their steps, of the work alone, of blocks in
memory, of units in order), `_prospects` (of frames), `_stages` (the stages of one frame), `_search`.
"""

from meshwright.plan.search._aim import Aim as Aim
from meshwright.plan.search._choices import Choices as Choices
from meshwright.plan.search._choices import Devices as Devices
from meshwright.plan.search._choices import choices_of as choices_of
from meshwright.plan.search._choices import device_sets as device_sets
from meshwright.plan.search._frame import Frame as Frame
from meshwright.plan.search._frame import framed as framed
from meshwright.plan.search._frame import frames as frames
from meshwright.plan.search._frame import keeps_all as keeps_all
from meshwright.plan.search._frame import levels as levels
from meshwright.plan.search._frame import schedules as schedules
from meshwright.plan.search._frame import shapes as shapes
from meshwright.plan.search._limits import limits as limits
from meshwright.plan.search._orders import orders_beside as orders_beside
from meshwright.plan.search._search import Found as Found
from meshwright.plan.search._search import Result as Result
from meshwright.plan.search._search import Search as Search
from meshwright.plan.search._search import front_of as front_of
from meshwright.plan.search._sending import MOST_APART as MOST_APART
from meshwright.plan.search._stages import ROUNDING as ROUNDING
from meshwright.plan.search._stages import Effort as Effort
