"""How is the model split? One worker, data parallel, and the optimizer, gradients or parameters in shards.

In: the user's model and optimizer, a `Strategy`. Out: a `Parallelized`, which the step engine of `run` drives.
Reading order: `_parallelized` (what the engine relies on), `_apply`, `_single`, `_data_parallel`, `_fully_sharded`;
beside them `_batch_norm`, `_recompute`, `_agreement`, `_ownership`, `_named`.
"""

from meshwright.parallel._apply import apply as apply
from meshwright.parallel._optimizer_pieces import optimizer_pieces as optimizer_pieces
from meshwright.parallel._parallelized import Held as Held
from meshwright.parallel._parallelized import Parallelized as Parallelized
from meshwright.parallel._parallelized import SplitModel as SplitModel
from meshwright.parallel._pieces import Piece as Piece
from meshwright.parallel._pieces import collected as collected
from meshwright.parallel._pieces import local as local
