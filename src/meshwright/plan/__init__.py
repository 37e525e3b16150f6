"""Which plan is best? The space of legal strategies, their prices, the choice and its reasons.

In: a `Graph`, a `Cluster`, a `Goal`. Out: a `Plan`.
Reading order: `_goal`, `_plan`.
"""

from meshwright.plan._goal import Goal as Goal
from meshwright.plan._goal import Pins as Pins
from meshwright.plan._plan import Candidate as Candidate
from meshwright.plan._plan import Plan as Plan
from meshwright.plan._trial_result import TrialResult as TrialResult
