"""How are parameters kept in shards of unequal size? By rows, gathered block by block, on devices of unequal memory.

In: modules to run, a `Strategy` whose `shards` differ. Out: a `Parallelized`, as `FullySharded` is for equal shards:
torch's `fully_shard` cuts into equal ones only.
Reading order: `_rows` (who holds what), `_parts` (collectives on unequal parts), `_unit` (parameters gathered together)
and `_passes` (when), `_uneven_shards` (all together).
"""

from meshwright.parallel.uneven._rows import cuts as cuts
from meshwright.parallel.uneven._uneven_shards import UnevenLayout as UnevenLayout
from meshwright.parallel.uneven._uneven_shards import UnevenShards as UnevenShards
