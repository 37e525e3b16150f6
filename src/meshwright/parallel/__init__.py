"""How is the model split? One worker, data parallel, shards, and a captured program over tensor, context and stages.

In: the user's model, optimizer and loss, a `Strategy`. Out: a `Parallelized`, which the step engine of `run` drives; a
`SplitModel` where a worker computes a part of the model only.
Reading order: `_parallelized` (what the engine relies on), `_apply` with `_checks`, `_single`, `_data_parallel`,
`_fully_sharded` with `_shards`, `_own_outputs`, `_gather_ahead` and `_shard_exchange` (`_encoded_shards`: in fewer
bits), `_around`; beside them `_batch_norm`, `_stand_in` (for a block's forward) with `_recompute` and
`_activation_offload`, `_agreement`, `_ownership`, `_named`, `_state_offload`; `_pieces` (whole tensors from what
workers hold) and `_optimizer_pieces`; `_twin` (what an optimizer would do), `_elementwise`.
`uneven`: shards of unequal size. A split model: `program` (what is
computed), `tensor`, `context` and `pipeline` (how it is split), `hybrid` (all axes together); `stale` (workers that
train apart for a while).
"""

from meshwright.parallel._activation_offload import ActivationOffload as ActivationOffload
from meshwright.parallel._apply import apply as apply
from meshwright.parallel._optimizer_pieces import optimizer_pieces as optimizer_pieces
from meshwright.parallel._parallelized import Held as Held
from meshwright.parallel._parallelized import Parallelized as Parallelized
from meshwright.parallel._parallelized import SplitModel as SplitModel
from meshwright.parallel._pieces import Piece as Piece
from meshwright.parallel._pieces import collected as collected
from meshwright.parallel._pieces import local as local
from meshwright.parallel._state_offload import StateOffload as StateOffload
