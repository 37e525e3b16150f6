"""In what numbers, by which kernels? The same mathematics in its fastest form, and precision where it is allowed.

In: a `Kernels` and a `Precision` of a strategy, the user's model and optimizer. Out: contexts inside which the user's
own code runs faster; leaving one puts everything back. Each piece stands alone:

- `_matrix_library`: who multiplies float32 matrices on a CPU; `_usual_sizes`: how much of one whose size changes
- `_random`: who draws the masks of dropout on a CPU
- `_allocator`: whether freed memory stays in the process; `_heap`: or is given back when it has grown by fragments
- `_optimizer_form`: one fused update instead of many small operations
- `_memory_format`: images with their channels last
- `_compilation`: `torch.compile` on the repeated blocks
- `_precision`: in which data type products are computed

Reading order: `_kernels` composes the pieces, then any of them; `_override` is how a kernel of torch is replaced.
"""

from meshwright.numerics._allocator import allocator_applied as allocator_applied
from meshwright.numerics._compilation import compilation_applied as compilation_applied
from meshwright.numerics._heap import Heap as Heap
from meshwright.numerics._heap import heap_for as heap_for
from meshwright.numerics._kernels import kernels_applied as kernels_applied
from meshwright.numerics._matrix_library import matrix_library_applied as matrix_library_applied
from meshwright.numerics._memory_format import memory_format_applied as memory_format_applied
from meshwright.numerics._optimizer_form import fused_supported as fused_supported
from meshwright.numerics._optimizer_form import optimizer_form_applied as optimizer_form_applied
from meshwright.numerics._precision import precision_applied as precision_applied
from meshwright.numerics._random import random_applied as random_applied
