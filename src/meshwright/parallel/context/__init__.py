"""How is a long sequence split? Every worker computes a part of the positions; attention meets the others' keys.

In: a captured program, the degree, which form attention takes. Out: the program of one worker's positions. It is split
by the same rules as over the tensor axis, with all parameters whole and their gradients parts of a sum, which is taken
over the data axes. Reading order: `_axis`, `_ring` (keys and values go round the workers), `_block` (its mathematics).
"""

from meshwright.parallel.context._axis import ContextAxis as ContextAxis
from meshwright.parallel.context._axis import along_sequence as along_sequence
