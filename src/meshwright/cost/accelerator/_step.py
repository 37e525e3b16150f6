"""The time of one training step of a transformer on equal accelerators."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from meshwright.cost.accelerator._calibration import Calibration, Habits, calibration
from meshwright.cost.accelerator._collectives import Collectives
from meshwright.cost.accelerator._exposure import after_backward, beside, in_turn, together, turn_time, update_size
from meshwright.cost.accelerator._kernels import kernels
from meshwright.cost.accelerator._layers import LayerTime, ends_time, layer_time
from meshwright.cost.accelerator._machine import Machine
from meshwright.cost.accelerator._setup import Setup
from meshwright.cost.accelerator._stages import layers_per_worker
from meshwright.cost.accelerator._stalls import Messages, stall_time, stalls
from meshwright.units import Seconds

_PARAMETER_BYTES = 2
# A run in which more than one in twenty stalls has the stall inside its 90 % interval.
_RARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Where a step's time goes on the slowest worker (s); the items add up to `step`.

    Args:
        computing: forward and backward of its micro-batches, with what the host and collectives inside layers add.
        waiting: the pipeline's filling and emptying.
        sending: between stages.
        reduction: gradients, and parameters gathered again.
        optimizer: update, clipping, clearing.
        overhead: the host's, per step.
        stall: messages that wait for hosts of a large network.
        low: the step is faster in 5 % of cases.
        high: the step is slower in 5 % of cases.
    """

    computing: Seconds
    waiting: Seconds
    sending: Seconds
    reduction: Seconds
    optimizer: Seconds
    overhead: Seconds
    stall: Seconds
    low: Seconds
    high: Seconds

    @property
    def step(self) -> Seconds:
        """The whole step."""
        return (
            self.computing + self.waiting + self.sending + self.reduction + self.optimizer + self.overhead + self.stall
        )


def step_time(setup: Setup, machine: Machine, *, fitted: Calibration | None = None) -> StepTime:
    """How long a step takes.

    Args:
        setup: the model and how it is trained.
        machine: what it is trained on.
        fitted: instead of the package's own calibration.
    """
    known = fitted or calibration()
    habits = known.frameworks.get(setup.framework) or known.frameworks["other"]
    messages = messages_of(setup, machine)
    stall = stall_time(habits, messages)
    stalled = stalls(habits.stalls, messages)
    # Messages go both ways from the micro-batch on with which the pipeline is full; a host that waits, waits for all.
    both_ways = setup.micro_batches if stalled else max(0, setup.micro_batches - setup.pp + 1)
    parts = _parts(setup, machine, habits, known, both_ways=both_ways)
    smooth = sum(parts.values())
    chance = 1 - exp(-habits.stall_share_per_host * machine.num_hosts)
    spread = 1.0 if machine.device in known.devices else known.kernels.other_spread
    return StepTime(
        **parts,
        stall=stall if stalled else 0.0,
        low=smooth * habits.low / spread,
        high=(smooth + (stall if stalled or chance > _RARE else 0.0)) * habits.high * spread,
    )


def messages_of(setup: Setup, machine: Machine) -> Messages:
    """What a run's messages depend on."""
    return Messages(
        tp=setup.tp, pp=setup.pp, ranks=setup.dp, sharded=setup.sharding != "none", examples=setup.micro_batch,
        micro_batches=setup.micro_batches, parameters=setup.model.num_parameters, domain=machine.domain,
        num_hosts=machine.num_hosts, fullness=setup.fullness,
    )  # fmt: skip


def _parts(setup: Setup, machine: Machine, habits: Habits, known: Calibration, *, both_ways: int) -> dict[str, Seconds]:
    """Every item of the step but the stall.

    Args:
        both_ways: micro-batches of which messages of others go the other way.
    """
    kernel_times = kernels(machine, setup.matrix_type, known)
    collectives = Collectives(machine, known.network)
    layer = layer_time(setup, kernel_times, collectives, habits, known)
    exchanging = layer.device + _parameter_exchange(setup, collectives, habits, layer)
    launched = in_turn if setup.timed and setup.tp > 1 else together
    per_layer, alone = launched(exchanging, layer.host), launched(exchanging, layer.launch)
    counts, last = layers_per_worker(setup.model, setup.pp, setup.framework)
    if setup.layers:
        counts, last = setup.layers, setup.pp - 1
    held = _parameters(setup, counts, last)
    ends = ends_time(setup, kernel_times, habits, known)
    added = [kernel_times.moving(own * habits.accumulation_traffic) for own in held]
    added[0] += ends[0]
    added[last] += ends[1]
    turn = turn_time(habits, tp=setup.tp, pp=setup.pp, num_hosts=machine.num_hosts)
    lengths = _lengths(setup, counts, layer)
    filling = [count * alone + more for count, more in zip(lengths, added, strict=True)]
    steady = max(count * per_layer + more + turn for count, more in zip(lengths, added, strict=True))
    send = _send(setup, collectives, habits)
    shards = 1 if setup.sharding == "none" else setup.dp
    moved = update_size(max(held), shards, 0, known.traffic, habits)
    last_backward = layer.backward / (layer.forward + layer.backward + layer.recompute) * max(counts) * per_layer
    return {
        "computing": setup.micro_batches * max(filling) + both_ways * (steady - max(filling)),
        "waiting": _filling(setup, habits, filling),
        "sending": send * (setup.micro_batches + (setup.pp - 1) / setup.stages_per_worker * habits.bubble),
        "reduction": _reduction(setup, collectives, habits, max(held), last_backward),
        "optimizer": kernel_times.moving(moved),
        "overhead": habits.step,
    }


def _lengths(setup: Setup, counts: Sequence[float], layer: LayerTime) -> list[float]:
    """Every pipeline worker's layers, in layers of the mean recomputation: those that do more again count more."""
    if not setup.computed_again:
        return list(counts)
    least = layer.device - layer.recompute
    return [
        count * (least + again * layer.forward) / layer.device
        for count, again in zip(counts, setup.computed_again, strict=True)
    ]


def _parameters(setup: Setup, counts: Sequence[float], last: int) -> list[float]:
    """Elements that each pipeline worker holds: its layers, the embedding on the first, the output layer on `last`."""
    model = setup.model
    held = [setup.layer_parameters * count for count in counts]
    held[0] += model.embedding_parameters / setup.tp
    if not model.tied or last != 0:
        held[last] += model.hidden * model.vocab / setup.tp
    return held


def _filling(setup: Setup, habits: Habits, stages: Sequence[Seconds]) -> Seconds:
    """Waiting for the first micro-batch to come and for the last to go."""
    return (sum(stages) - max(stages)) / setup.stages_per_worker * habits.bubble


def _parameter_exchange(setup: Setup, collectives: Collectives, habits: Habits, layer: LayerTime) -> Seconds:
    """Of a layer whose parameters are sharded: gathered for forward and backward, gradients scattered.

    Beside the layer's computing; what is longer than it is exposed, and a share of the rest by interference. A pipeline
    keeps what it gathered for all micro-batches of a step, and scatters once.
    """
    if setup.sharding != "parameters" or setup.dp == 1:
        return 0.0
    stride = setup.tp * setup.cp
    gathered = collectives.gather(setup.dp, stride, setup.layer_parameters * _PARAMETER_BYTES)
    scattered = collectives.gather(
        setup.dp, stride, setup.layer_parameters * (setup.gradient_bytes or habits.gradient_bytes)
    )
    slowdown = collectives.slowdown(setup.dp, stride)
    exchanged = 2 * gathered + scattered if setup.pp == 1 else (gathered + scattered) / setup.micro_batches
    return float(beside(exchanged, layer.device, habits, slowdown))


def _send(setup: Setup, collectives: Collectives, habits: Habits) -> Seconds:
    """Activations to the next stage and gradients back, per micro-batch."""
    if setup.pp == 1:
        return 0.0
    size = setup.tokens * setup.model.hidden * setup.item_size / (setup.tp if setup.sequence_split else 1)
    return 2 * collectives.send(setup.tp * setup.dp * setup.cp, size) * habits.send


def _reduction(
    setup: Setup, collectives: Collectives, habits: Habits, parameters: float, last_backward: Seconds
) -> Seconds:
    """Gradients of whole or optimizer-sharded parameters, in buckets beside the last backward; parameters after it.

    Tensor-parallel collectives that leave the host take the cards that gradients would travel over meanwhile.
    """
    if setup.dp == 1 or setup.sharding == "parameters":
        return 0.0
    stride = setup.tp * setup.cp
    bucket = max(collectives.shares.bucket, habits.bucket_per_rank * setup.dp)
    calls = max(1.0, parameters * _PARAMETER_BYTES / bucket)
    size = parameters * (setup.gradient_bytes or habits.gradient_bytes)
    whole = setup.sharding == "none" or habits.sharded_sums == "whole"
    sums = collectives.all_reduce if whole else collectives.gather
    after = setup.sharding != "none" and habits.sharded_sums == "whole"
    if after:
        calls = 1.0
    reduced = sums(setup.dp, stride, size, calls=calls)
    gathered = 0.0
    if setup.sharding != "none":
        gathered = collectives.gather(setup.dp, stride, parameters * _PARAMETER_BYTES, calls=calls)
    if after:
        return reduced + habits.gather_exposed * gathered
    window = last_backward if collectives.span(setup.tp, 1)[1] == 1 else 0.0
    return after_backward(reduced, gathered, window, habits, collectives.slowdown(setup.dp, stride))
