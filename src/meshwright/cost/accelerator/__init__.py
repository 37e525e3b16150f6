"""How long does a transformer's step take on accelerators? From shapes, links and fitted shares, in microseconds.

In: a `Setup` (the model by its dimensions, its split), a `Machine` (rates and links of equal accelerators). Out: a
`StepTime`. The parts serve any other graph as well: `kernels(machine, …)` times products, attention and memory traffic
by shape, `Collectives` times exchanges by group size and stride.
Reading order: `_calibration` (what was fitted; `calibration.toml`), `_machine`, `_setup`; `_kernels`, `_collectives`;
`_interference` (what runs beside each other slows each other), `_exposure` (what of exchanges and launches is waited
for), `_stalls`; `_layers`, `_stages` and `_step` for transformers by their dimensions; `_operations` for captured
graphs.
"""

from meshwright.cost.accelerator._calibration import Calibration as Calibration
from meshwright.cost.accelerator._calibration import Habits as Habits
from meshwright.cost.accelerator._calibration import KernelShares as KernelShares
from meshwright.cost.accelerator._calibration import NetworkShares as NetworkShares
from meshwright.cost.accelerator._calibration import TrafficCounts as TrafficCounts
from meshwright.cost.accelerator._calibration import calibration as calibration
from meshwright.cost.accelerator._collectives import Collectives as Collectives
from meshwright.cost.accelerator._exposure import after_backward as after_backward
from meshwright.cost.accelerator._exposure import beside as beside
from meshwright.cost.accelerator._exposure import host_time as host_time
from meshwright.cost.accelerator._exposure import in_turn as in_turn
from meshwright.cost.accelerator._exposure import least_waited as least_waited
from meshwright.cost.accelerator._exposure import tensor_exposed as tensor_exposed
from meshwright.cost.accelerator._exposure import together as together
from meshwright.cost.accelerator._exposure import turn_time as turn_time
from meshwright.cost.accelerator._exposure import update_size as update_size
from meshwright.cost.accelerator._interference import Interference as Interference
from meshwright.cost.accelerator._interference import Slowdown as Slowdown
from meshwright.cost.accelerator._interference import exposed as exposed
from meshwright.cost.accelerator._kernels import Kernels as Kernels
from meshwright.cost.accelerator._kernels import kernels as kernels
from meshwright.cost.accelerator._layers import LayerTime as LayerTime
from meshwright.cost.accelerator._layers import layer_time as layer_time
from meshwright.cost.accelerator._machine import Machine as Machine
from meshwright.cost.accelerator._machine import Rack as Rack
from meshwright.cost.accelerator._machine import machine as machine
from meshwright.cost.accelerator._machine import machine_of as machine_of
from meshwright.cost.accelerator._operations import accelerated_times as accelerated_times
from meshwright.cost.accelerator._setup import MatrixType as MatrixType
from meshwright.cost.accelerator._setup import Recomputation as Recomputation
from meshwright.cost.accelerator._setup import Setup as Setup
from meshwright.cost.accelerator._stages import layers_per_worker as layers_per_worker
from meshwright.cost.accelerator._stalls import Messages as Messages
from meshwright.cost.accelerator._stalls import Stalls as Stalls
from meshwright.cost.accelerator._stalls import layers_wait as layers_wait
from meshwright.cost.accelerator._stalls import stall_time as stall_time
from meshwright.cost.accelerator._stalls import stalls as stalls
from meshwright.cost.accelerator._step import StepTime as StepTime
from meshwright.cost.accelerator._step import messages_of as messages_of
from meshwright.cost.accelerator._step import step_time as step_time
