"""What would a strategy cost? Time, memory, energy and money of one step, item by item.

In: a `Graph`, a `Cluster`, a `Strategy`. Out: a `Prediction`; a run's `Measurement` has the same items.
Reading order: `_mesh`, `_split`, `_schedule` and `_flowing` (a pipeline's orders of work), `_compression`, `_updates`,
`_strategy`, `_convergence`, `_prediction`, `_measurement`, `_trace`, `_verification` (the data); `_pricing`, which puts
together `_compute` (with `_workload` and `_rates`), `_exchange_cost` (with `_communication` and `_timeline`),
`_meetings` (of `_islands`) and `_memory`.
"""

from meshwright.cost._communication import carrier_within_host as carrier_within_host
from meshwright.cost._communication import measured_transports as measured_transports
from meshwright.cost._compression import Compression as Compression
from meshwright.cost._compression import CompressionMethod as CompressionMethod
from meshwright.cost._convergence import convergence as convergence
from meshwright.cost._convergence import steps_over_exact as steps_over_exact
from meshwright.cost._flowing import delay as delay
from meshwright.cost._flowing import delays as delays
from meshwright.cost._flowing import draining_orders as draining_orders
from meshwright.cost._flowing import flowing_orders as flowing_orders
from meshwright.cost._islands import counterparts as counterparts
from meshwright.cost._islands import island_ranks as island_ranks
from meshwright.cost._islands import strategy_within as strategy_within
from meshwright.cost._lossy import is_lossy as is_lossy
from meshwright.cost._lossy import lossy_cost as lossy_cost
from meshwright.cost._measurement import Measurement as Measurement
from meshwright.cost._measurement import StepRecord as StepRecord
from meshwright.cost._memory import allocated as allocated
from meshwright.cost._memory import freed as freed
from meshwright.cost._mesh import Axis as Axis
from meshwright.cost._mesh import Mesh as Mesh
from meshwright.cost._prediction import Collective as Collective
from meshwright.cost._prediction import MemoryBreakdown as MemoryBreakdown
from meshwright.cost._prediction import Moment as Moment
from meshwright.cost._prediction import Prediction as Prediction
from meshwright.cost._prediction import RateSource as RateSource
from meshwright.cost._prediction import StageTime as StageTime
from meshwright.cost._prediction import TimeBreakdown as TimeBreakdown
from meshwright.cost._pricing import Pricer as Pricer
from meshwright.cost._pricing import find_host as find_host
from meshwright.cost._pricing import host_names as host_names
from meshwright.cost._pricing import predict as predict
from meshwright.cost._schedule import Action as Action
from meshwright.cost._schedule import StageEvent as StageEvent
from meshwright.cost._schedule import Work as Work
from meshwright.cost._schedule import balanced_bubble as balanced_bubble
from meshwright.cost._schedule import bubble as bubble
from meshwright.cost._schedule import check_schedule as check_schedule
from meshwright.cost._schedule import needs as needs
from meshwright.cost._schedule import orders as orders
from meshwright.cost._schedule import replayed as replayed
from meshwright.cost._schedule import simulated as simulated
from meshwright.cost._split import Pipeline as Pipeline
from meshwright.cost._split import Placement as Placement
from meshwright.cost._split import Schedule as Schedule
from meshwright.cost._strategy import Allowance as Allowance
from meshwright.cost._strategy import Batch as Batch
from meshwright.cost._strategy import Exchange as Exchange
from meshwright.cost._strategy import Kernels as Kernels
from meshwright.cost._strategy import Offload as Offload
from meshwright.cost._strategy import Precision as Precision
from meshwright.cost._strategy import Sharding as Sharding
from meshwright.cost._strategy import Strategy as Strategy
from meshwright.cost._strategy import TransportName as TransportName
from meshwright.cost._strategy import Worker as Worker
from meshwright.cost._trace import Phase as Phase
from meshwright.cost._trace import StepTrace as StepTrace
from meshwright.cost._trace import read_trace as read_trace
from meshwright.cost._trace import write_trace as write_trace
from meshwright.cost._updates import Updates as Updates
from meshwright.cost._updates import UpdatesKind as UpdatesKind
from meshwright.cost._updates import suited_momentum as suited_momentum
from meshwright.cost._verification import Verification as Verification
