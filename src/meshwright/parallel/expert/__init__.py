"""How are experts spread? Each worker holds some experts of every mixture; tokens travel to theirs and back.

In: a captured program with grouped products, the degree. Out: the program of one worker, in which the rows of other
workers' tokens meet this worker's experts; no token is dropped, however uneven the routing is.
Reading order: `_mixture` (what belongs to a mixture), `_sorting` (all of it as one node, for other axes), `_route`
(tokens on their way), `_axis`.
"""

from meshwright.parallel.expert._axis import ExpertAxis as ExpertAxis
from meshwright.parallel.expert._mixture import Mixture as Mixture
from meshwright.parallel.expert._mixture import mixtures as mixtures
from meshwright.parallel.expert._sorting import check_alone as check_alone
from meshwright.parallel.expert._sorting import folded as folded
from meshwright.parallel.expert._sorting import unfolded as unfolded
