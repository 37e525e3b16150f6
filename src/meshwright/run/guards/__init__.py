"""Does what a plan leaves out, or leaves for later, cost progress? Some of its steps beside exact ones.

In: the job, the job under its strategy, and the engine's ways to do a step (`Stepping`). Out: the step's loss, and now
and then a comparison of what it gained with what exact steps gain from the same state; where that is more than the
tolerance, less is left out from then on.
Reading order: `_checks` (what a comparison says), `_guard` (what all guards do), `_snapshot` (how steps are undone),
`_compression_guard` (gradients that are sent in part), `_staleness_guard` (steps apart, or late), `_replay_guard`
(workers that wait for nobody), `_choice` (which one a strategy has).
"""

from meshwright.run.guards._checks import SpanCheck as SpanCheck
from meshwright.run.guards._checks import StepCheck as StepCheck
from meshwright.run.guards._choice import guard_of as guard_of
from meshwright.run.guards._guard import Check as Check
from meshwright.run.guards._guard import Guard as Guard
from meshwright.run.guards._guard import Stepping as Stepping
