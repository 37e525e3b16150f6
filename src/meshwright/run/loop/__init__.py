"""What happens in a loop that the user has written? Something stands for the model, and steps with its optimizer.

In: the user's model alone. Out: what the loop calls instead of it, on one worker or several, and a record of its steps.
Reading order: `_start` (alone, planned for, under a plan), `_hand_written` (what stands for the model), `_lone_worker`,
`_workers` with `_outputs` and `_own_optimizer`, `_pinned_strategy`, `_planning`, `_record`.
"""

from meshwright.run.loop._hand_written import HandWritten as HandWritten
from meshwright.run.loop._record import LoopRecord as LoopRecord
from meshwright.run.loop._start import hand_written as hand_written
