"""How do workers train on without waiting for each other? Local, asynchronous and unlocked updates.

In: what the workers of an island do together (a `Parallelized`), `Updates`. Out: a `Parallelized` around it.
Reading order: `_islands` (who agrees in every step), `_fragment` (the outer optimizer on a part of the model),
`_meetings` (when), `_local_updates`.
"""

from meshwright.parallel.stale._islands import Island as Island
from meshwright.parallel.stale._islands import island_ranks as island_ranks
from meshwright.parallel.stale._islands import make_island as make_island
from meshwright.parallel.stale._local_updates import LocalUpdates as LocalUpdates
