"""Which plan is best? The space of legal strategies, their prices, the choice and its reasons.

In: a `Graph`, a `Cluster`, a `Goal`. Out: a `Plan`.
Reading order: `_goal`, `_plan` (the data); `_layouts`, `_space` (what is legal; `_legality` says why something is not),
`_known_figures` (prices and power), `_priced`, `_model_splits`, `_shortlist` (`_fit` says why nothing fits), `_choice`
(with `_reasons` and `_flips`), `_rank_memory`, `_heap_room` (where memory is tight), `_uneven_here` with
`_shard_sizes` (hosts of unequal memory), `_compiled` (one more trial in long runs),
`_outright` with `_neighbourhood` and `_remedies` (hardware that is not here), `_explain`; `_balanced_cuts` (where a
pipeline's stages begin), `_offer` (what is better once steps were seen).
"""

from meshwright.plan._axis_order import USUAL_ORDER_PIN as USUAL_ORDER_PIN
from meshwright.plan._balanced_cuts import Balance as Balance
from meshwright.plan._balanced_cuts import Piece as Piece
from meshwright.plan._balanced_cuts import StageWorker as StageWorker
from meshwright.plan._balanced_cuts import balanced_cuts as balanced_cuts
from meshwright.plan._change import Change as Change
from meshwright.plan._change import price_change as price_change
from meshwright.plan._choice import choose as choose
from meshwright.plan._choice import winner as winner
from meshwright.plan._compiled import compiled_rival as compiled_rival
from meshwright.plan._explain import Decision as Decision
from meshwright.plan._explain import Explanation as Explanation
from meshwright.plan._explain import PlanDifference as PlanDifference
from meshwright.plan._explain import difference as difference
from meshwright.plan._explain import explain as explain
from meshwright.plan._explain import overflow as overflow
from meshwright.plan._goal import Goal as Goal
from meshwright.plan._goal import Objective as Objective
from meshwright.plan._goal import Pins as Pins
from meshwright.plan._offer import Offer as Offer
from meshwright.plan._offer import better_plan as better_plan
from meshwright.plan._outright import is_elsewhere as is_elsewhere
from meshwright.plan._outright import plan_outright as plan_outright
from meshwright.plan._outright import with_splits as with_splits
from meshwright.plan._places import hosts_of as hosts_of
from meshwright.plan._places import rank_at as rank_at
from meshwright.plan._plan import Candidate as Candidate
from meshwright.plan._plan import FrontPoint as FrontPoint
from meshwright.plan._plan import Plan as Plan
from meshwright.plan._plan import PlannedStage as PlannedStage
from meshwright.plan._plan import RankMemory as RankMemory
from meshwright.plan._plan_file import read_plan as read_plan
from meshwright.plan._plan_file import write_plan as write_plan
from meshwright.plan._priced import Priced as Priced
from meshwright.plan._priced import choice as choice
from meshwright.plan._priced import spans_hosts as spans_hosts
from meshwright.plan._shortlist import Shortlist as Shortlist
from meshwright.plan._shortlist import shortlist as shortlist
from meshwright.plan._space import SPLITS as SPLITS
from meshwright.plan._target import Target as Target
from meshwright.plan._target import check_deadline as check_deadline
from meshwright.plan._target import target_of as target_of
from meshwright.plan._trial_result import TrialResult as TrialResult
