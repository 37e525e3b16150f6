"""How do workers train on without waiting for each other? Local, asynchronous and unlocked updates.

In: what the workers of an island do together (a `Parallelized`), `Updates`. Out: a `Parallelized` around it.
Reading order: `_islands` (who agrees in every step), `_averaging` (exact steps among those that do not), `_flat`,
`_fragment` (the outer optimizer on a part of the model), `_meetings` (when), `_local_updates`, `_split_islands`;
`_unwaiting` (who waits for nobody) with `_assembly` (and is called together) and `_lockstep` (or steps with all after
all); `_server`, `_asynchronous`; `_rates`, `_shared_parameters`; `_choice` (which, by name).
"""

from meshwright.parallel.stale._asynchronous import AsynchronousUpdates as AsynchronousUpdates
from meshwright.parallel.stale._choice import set_apart as set_apart
from meshwright.parallel.stale._islands import Island as Island
from meshwright.parallel.stale._islands import make_island as make_island
from meshwright.parallel.stale._local_updates import LocalUpdates as LocalUpdates
from meshwright.parallel.stale._server import Server as Server
from meshwright.parallel.stale._shared_parameters import SharedParameters as SharedParameters
from meshwright.parallel.stale._split_islands import SplitIslands as SplitIslands
