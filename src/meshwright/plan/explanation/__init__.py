"""Why this layout? What binds it, why each neighbour loses, and what would flip the choice: all by pricing.

In: a `HybridPricer`, a `Goal`, the chosen layout. Out: sentences with numbers.
Reading order: `_names`, `_comparison` (one layout against another), `_departures` (from exact steps), `_neighbours`,
`_causes`.
"""

from meshwright.plan.explanation._causes import binding as binding
from meshwright.plan.explanation._causes import flips as flips
from meshwright.plan.explanation._causes import more_memory as more_memory
from meshwright.plan.explanation._comparison import too_large as too_large
from meshwright.plan.explanation._comparison import why_not as why_not
from meshwright.plan.explanation._names import AXES as AXES
from meshwright.plan.explanation._names import device_names as device_names
from meshwright.plan.explanation._names import summary as summary
from meshwright.plan.explanation._neighbours import Neighbour as Neighbour
from meshwright.plan.explanation._neighbours import neighbour as neighbour
from meshwright.plan.explanation._neighbours import neighbours as neighbours
from meshwright.plan.explanation._neighbours import pins_of as pins_of
from meshwright.plan.explanation._neighbours import relaxed as relaxed
from meshwright.plan.explanation._neighbours import with_memory as with_memory
