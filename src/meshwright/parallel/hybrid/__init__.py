"""How do all axes work together? One worker's part of a split step, and the data axes around it.

In: the user's model, optimizer and loss, a `Strategy` whose mesh splits the model. Out: a `SplitModel`, which the step
engine of `run` drives.
Reading order: `_grid` (who is whose neighbour), `_completion` (what a strategy leaves open), `_checks` (what is
declined), `_portion` (what one worker computes) with `_tensor_axis`, `_blocks`, `_homes`,
`_originals` and `_global_statistics`, `_data_axes` (whose gradients are summed) with `_expert_data`, `_norm`, `_hybrid`
(all together).
"""

from meshwright.parallel.hybrid._checks import check as check
from meshwright.parallel.hybrid._completion import Completed as Completed
from meshwright.parallel.hybrid._completion import best_scheme as best_scheme
from meshwright.parallel.hybrid._completion import completed as completed
from meshwright.parallel.hybrid._grid import Grid as Grid
from meshwright.parallel.hybrid._grid import make_grid as make_grid
from meshwright.parallel.hybrid._hybrid import Hybrid as Hybrid
