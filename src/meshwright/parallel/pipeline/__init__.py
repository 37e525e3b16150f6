"""Who computes which part of the model, and when? A captured program cut into stages, run by a schedule.

In: a `Program`, the paths at which stages begin, a schedule. Out: gradients in the parameters of each worker's stages.
Reading order: `_flow` (what a program's operations make, read and change), `_cut_points`, `_stages`; `_messages`,
`_links` (`_group_links` between any workers, `_host_links` inside a host), `_executor` (one worker's step) with
`_later` and `_record`; `_versions`, `_flowing` (steps that leave work under way); `_holdings` (whose parameters are
where), `_pipelined` (all of it together). The schedules' orders are data of `cost`.
"""

from meshwright.parallel.pipeline._cut_points import CutPoint as CutPoint
from meshwright.parallel.pipeline._cut_points import possible_cuts as possible_cuts
from meshwright.parallel.pipeline._executor import Surroundings as Surroundings
from meshwright.parallel.pipeline._pipelined import Pipelined as Pipelined
from meshwright.parallel.pipeline._stages import Stage as Stage
from meshwright.parallel.pipeline._stages import Value as Value
from meshwright.parallel.pipeline._stages import cut as cut
