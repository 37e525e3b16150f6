r"""What of an exchange or of the host's work is waited for: the same rules for layers by their dimensions and captured.

together       the larger of two that run beside each other, rounded where they are near: $(a^p + b^p)^{1/p}$
in_turn        their sum, where they wait for each other so often that nothing is launched ahead
beside         what is longer than the computing beside it, with what both slow each other, or a share of the rest where
               that is more
tensor         latency and transfer of collectives that computing waits for, each with its share
after_backward gradients that the last backward does not hide, a share of them in any case; then parameters
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from meshwright.cost.accelerator._calibration import Habits, TrafficCounts
from meshwright.cost.accelerator._interference import Slowdown, exposed
from meshwright.units import Bytes, Seconds

Column = NDArray[np.float64]
Times = TypeVar("Times", float, Column)

_SHARPNESS = 16.0
# Bytes moved per parameter by the update that `TrafficCounts.optimizer` was fitted to: parameter and gradient read, the
# parameter written, two states of 4 bytes read and written.
_USUAL_UPDATE = 28.0
_NONE = Slowdown()


def together(device: Times, host: Times) -> Times:
    """Time of what the device and its host do beside each other (s)."""
    return (device**_SHARPNESS + host**_SHARPNESS) ** (1 / _SHARPNESS)  # type: ignore[return-value]


def in_turn(device: Times, host: Times) -> Times:
    """Time of what the device and its host do one after the other (s).

    A program that times its collectives waits for the device before and after each, so that the device waits in its
    turn while the kernels up to the next are launched: `torch.cuda.synchronize` in Megatron's timers.
    """
    return device + host


def beside(exchange: Times, computing: Times, habits: Habits, slowdown: Slowdown = _NONE) -> Times:
    """What an exchange adds to computing that it runs beside of (s)."""
    hidden = np.minimum(exchange, computing)
    waited = exchange - hidden + habits.reduction_exposed * hidden
    return np.maximum(exposed(exchange, computing, slowdown), waited)  # type: ignore[return-value]


def tensor_exposed(whole: Times, latency: Times, habits: Habits) -> Times:
    """What collectives inside a layer add (s).

    Args:
        whole: their time alone (s).
        latency: of it, what does not grow with the size (s).
    """
    return (whole - latency) * habits.tensor_exposed + latency * habits.tensor_latency  # type: ignore[return-value]


def after_backward(
    reduced: Seconds, gathered: Seconds, last_backward: Seconds, habits: Habits, slowdown: Slowdown = _NONE
) -> Seconds:
    """What exchanging gradients, and then parameters, adds after the last backward (s).

    Args:
        reduced: the gradients' exchange alone (s).
        gathered: the updated parameters' (s).
        last_backward: beside which gradients travel (s).
    """
    beyond = float(exposed(reduced, habits.hidden_share * last_backward, slowdown))
    return max(beyond, habits.reduction_exposed * reduced) + habits.gather_exposed * gathered


def least_waited(habits: Habits, slowdown: Slowdown = _NONE) -> tuple[float, float]:
    """Linear bounds on `after_backward` for an exchange of gradients of $e$ beside a backward of $w$.

    Returns:
        $κ$ and $φ$ of which $e - κ w$ and $φ e$ are both waited for at least.
    """
    slowed, slowing = slowdown.exchange, slowdown.computing
    hiding = max(0.0, 1 - slowing * (1 - 1 / slowed))
    return habits.hidden_share * hiding, max(habits.reduction_exposed, min(1.0, slowed * (1 - 1 / slowing)))


def host_time(habits: Habits, *, tp: int, pp: int, num_hosts: int) -> Seconds:
    """The host's time to launch a layer; more where messages between hosts share its queue with collectives (s)."""
    if pp == 1 or num_hosts == 1 or tp == 1:
        return habits.host
    return habits.host + habits.pipeline_host * tp


def turn_time(habits: Habits, *, tp: int, pp: int, num_hosts: int) -> Seconds:
    """What a stage takes per micro-batch besides its layers, where messages go between hosts (s)."""
    return 0.0 if pp == 1 or num_hosts == 1 else habits.pipeline_turn * tp**2


def update_size(
    parameters: float, shards: float, micro_batches: int, traffic: TrafficCounts, habits: Habits,
    *, moved: float = _USUAL_UPDATE,
) -> Bytes | float:  # fmt: skip
    """Bytes moved by a step's update, by clearing, clipping and casting, and by accumulating gradients.

    Args:
        parameters: on this worker.
        shards: among which the update is shared out.
        moved: bytes that the update reads and writes per parameter.
    """
    updated = parameters / shards * traffic.optimizer * moved / _USUAL_UPDATE
    return updated + parameters * (habits.parameter_traffic + habits.accumulation_traffic * micro_batches)
