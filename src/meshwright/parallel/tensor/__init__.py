"""How are a program's tensors split over an axis? A placement for every parameter and value, and local programs.

In: a `Program` on whole tensors, the degree, plain rates. Out: a `Scheme` (plain data), and the program that one worker
runs on its parts, with the exchanges in it; gradients come from autograd.
Reading order: `_layout` (how a tensor lies), `_operation`, `_by_row`, `rules` (how an operation can be split),
`_problem` (all ways), `_rates`, `_repeats`, `_solver` (the cheapest), `_scheme`, `_choose`; then what runs:
`_communicator`, `_host_communicator`, `_carrier` (which of them), `_parts`, `_conversions`, `_vocabulary`, `_random`,
`_rewrite`, `_localize`, `_shards`.
"""

from meshwright.parallel.tensor._by_row import ByRow as ByRow
from meshwright.parallel.tensor._carrier import make_communicator as make_communicator
from meshwright.parallel.tensor._choose import choose_placements as choose_placements
from meshwright.parallel.tensor._communicator import Communicator as Communicator
from meshwright.parallel.tensor._communicator import GroupCommunicator as GroupCommunicator
from meshwright.parallel.tensor._host_communicator import HostCommunicator as HostCommunicator
from meshwright.parallel.tensor._layout import COPIED as COPIED
from meshwright.parallel.tensor._layout import PARTIAL as PARTIAL
from meshwright.parallel.tensor._layout import REPLICATED as REPLICATED
from meshwright.parallel.tensor._layout import Layout as Layout
from meshwright.parallel.tensor._layout import Split as Split
from meshwright.parallel.tensor._localize import localize as localize
from meshwright.parallel.tensor._operation import operation_of as operation_of
from meshwright.parallel.tensor._rates import Rates as Rates
from meshwright.parallel.tensor._scheme import Exchange as Exchange
from meshwright.parallel.tensor._scheme import Scheme as Scheme
from meshwright.parallel.tensor._shards import Shards as Shards
