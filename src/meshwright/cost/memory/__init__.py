"""How much memory would a worker of each pipeline stage need, where no program was captured, and would it fit?

In: a `Transformer` by its dimensions, an `Arrangement`, a framework's `Conventions`. Out: a `StageMemory` per pipeline
worker, item by item and with the moment of its peak, and the probability of running out of memory.
Reading order: `_arrangement`, `_conventions` (with `memory.toml`), `_content`, `_transformer`, `_stage`, `_risk`.
"""

from meshwright.cost.memory._arrangement import Arrangement as Arrangement
from meshwright.cost.memory._arrangement import Recomputation as Recomputation
from meshwright.cost.memory._content import StageContent as StageContent
from meshwright.cost.memory._conventions import Backlog as Backlog
from meshwright.cost.memory._conventions import Conventions as Conventions
from meshwright.cost.memory._conventions import conventions as conventions
from meshwright.cost.memory._conventions import known_conventions as known_conventions
from meshwright.cost.memory._risk import failure_probability as failure_probability
from meshwright.cost.memory._risk import fullest as fullest
from meshwright.cost.memory._risk import needed_peak as needed_peak
from meshwright.cost.memory._risk import stages_on as stages_on
from meshwright.cost.memory._risk import usable_memory as usable_memory
from meshwright.cost.memory._stage import StageMemory as StageMemory
from meshwright.cost.memory._stage import stage_memories as stage_memories
from meshwright.cost.memory._stage import stage_memory as stage_memory
from meshwright.cost.memory._stage import waiting_share as waiting_share
from meshwright.cost.memory._transformer import SCORES_SHARE as SCORES_SHARE
from meshwright.cost.memory._transformer import saved_by_layer as saved_by_layer
from meshwright.cost.memory._transformer import stage_layers as stage_layers
from meshwright.cost.memory._transformer import transformer_contents as transformer_contents
