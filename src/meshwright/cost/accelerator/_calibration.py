"""What was fitted to published measurements: shares of peaks, latencies, and the habits of frameworks.

`calibration.toml` holds the values; `benchmarks/calibrate.py` writes it and says how far they carry over to what they
were not fitted on.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import TypeAdapter

from meshwright.cost.accelerator._interference import Interference
from meshwright.cost.accelerator._stalls import Stalls
from meshwright.units import Seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelShares:
    """How much of a device's rates its kernels reach.

    Args:
        half: of the 16-bit matrix rate, by large products.
        float8: of the 8-bit matrix rate.
        single: of the TF32 matrix rate.
        plain: of the 32-bit rate, on devices without TF32.
        row_scaled: of the 8-bit rate, where every row has a scale of its own, relative to one scale per tensor.
        inner: length of the inner dim at which a product reaches half of that (elements).
        fill: output elements that a device of 1e15 FLOP/s computes at once, relative to 132 tiles of 128 × 256.
        memory: of the memory's bandwidth, by kernels that it limits.
        flash: of the matrix rate, by fused attention.
        scores: passes over the scores by attention that keeps them, in tens.
        plain_scores: the same in 32 bits, for which frameworks have no fused softmax.
        launch: of one product (s).
        other_devices: of the matrix rate, on devices that `devices` does not name.
        steady: the same of those that hold their clock under load.
        other_spread: by how much intervals are wider on those.
    """

    half: float
    float8: float
    single: float
    plain: float
    row_scaled: float
    inner: float
    fill: float
    memory: float
    flash: float
    scores: float
    plain_scores: float
    launch: Seconds
    other_devices: float
    steady: float
    other_spread: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficCounts:
    """Passes over memory that operations between matrix products make.

    Args:
        hidden: bytes moved per byte of the residual stream and layer, forward and backward.
        ffn: the same per byte of the feed-forward network's inner width.
        vocabulary: bytes moved per logit.
        optimizer: bytes moved per parameter updated.
        compiled: share that is left when a compiler fuses them.
        selective: share of a layer's forward that selective recomputation does again.
        captured: what kernels move of the bytes that a capture counts for operations between products.
    """

    hidden: float
    ffn: float
    vocabulary: float
    optimizer: float
    compiled: float
    selective: float
    captured: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkShares:
    """How much of the links' bandwidth collectives reach, and how long their hops take.

    Args:
        link: of a switched link inside a host.
        pcie: what collectives reach through the host's memory, without a switch between devices (B/s).
        network: of the network cards.
        link_hop: time of a hop inside a host (s).
        link_start: time until a collective inside a host is at speed (s).
        network_hop: time of a ring's hop between hosts, relative to an empty message's.
        network_start: time until a collective between hosts begins (s).
        ring_growth: power of a ring's length that its latency grows with.
        switch_reduction: all-reduce's speed with a switch that adds, relative to a ring.
        tree_slope: how much slower an all-reduce gets per doubling of hosts.
        bucket: gradients that are sent at once, at least (B).
        context: share of a split sequence's exchange of keys and values that is not hidden.
        interference: how much exchanges and computing slow each other.
    """

    link: float
    pcie: float
    network: float
    link_hop: Seconds
    link_start: Seconds
    network_hop: float
    network_start: Seconds
    ring_growth: float
    switch_reduction: float
    tree_slope: float
    bucket: float
    context: float
    interference: Interference = Interference()


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How a framework runs a step.

    Args:
        host: host's time to launch a layer's forward and backward (s).
        pipeline_host: more of it per tensor-parallel worker where there are several, in a pipeline over several hosts
            (s).
        pipeline_turn: a stage's time per micro-batch and square of that number, in such a pipeline (s).
        traffic: passes over memory, relative to unfused eager kernels.
        tensor_exposed: share of tensor-parallel transfers that nothing hides.
        tensor_latency: hops of a tensor-parallel collective, relative to a bare one.
        hidden_share: share of the last backward that gradient reduction hides behind.
        reduction_exposed: share of data-parallel transfers that is exposed in any case.
        gather_exposed: share of the gathering of updated parameters that is exposed.
        sharded_sums: how gradients are summed where the optimizer is sharded: each worker's part beside the backward,
            or whole after it.
        gradient_bytes: of an element of a gradient on the network (B); 0: as captured.
        bucket_per_rank: gradients that are sent at once, per data rank (B).
        bubble: share of the pipeline's filling and emptying that is waited for.
        send: share of a transfer between stages that is waited for.
        parameter_traffic: bytes moved per local parameter and step: clearing, clipping and casting gradients.
        step: host's time per step (s).
        accumulation_traffic: bytes moved per local parameter and micro-batch.
        stall: time that one message between stages waits for the host on a large network (s); 0: not seen.
        stalls: when that was seen.
        low: the interval's lower end relative to the prediction.
        high: the interval's upper end.
        stall_share_per_host: probability that a host makes a run stall.
    """

    host: Seconds
    pipeline_host: Seconds = 0.0
    pipeline_turn: Seconds = 0.0
    traffic: float
    tensor_exposed: float
    tensor_latency: float
    hidden_share: float
    reduction_exposed: float
    gather_exposed: float
    sharded_sums: Literal["scattered", "whole"] = "scattered"
    gradient_bytes: float = 4.0
    bucket_per_rank: float = 0.0
    bubble: float
    send: float
    parameter_traffic: float
    step: Seconds
    accumulation_traffic: float = 0.0
    stall: Seconds = 0.0
    stalls: Stalls = Stalls()
    low: float = 0.8
    high: float = 1.25
    stall_share_per_host: float = 0.0


# To begin and end a step: the device is waited for once, and the loss is read. An assumption; runs correct it.
_OWN_STEP: Seconds = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Everything that was fitted.

    Args:
        devices: share of the matrix rate that a device sustains under load, relative to `KernelShares`, by name.
        frameworks: habits by class; `other` where a framework is not known.
    """

    kernels: KernelShares
    traffic: TrafficCounts
    network: NetworkShares
    devices: Mapping[str, float]
    frameworks: Mapping[str, Habits]

    @property
    def own(self) -> Habits:
        """Of programs that this product runs: of a framework that is not known; its schedules are simulated.

        The 30 ms of each step that published runs spend besides are their loaders, logs and checks.
        """
        return replace(self.frameworks["other"], bubble=1.0, gradient_bytes=0.0, step=_OWN_STEP)


@cache
def calibration() -> Calibration:
    """The calibration that comes with the package."""
    text = files("meshwright.cost.accelerator").joinpath("calibration.toml").read_text(encoding="utf-8")
    return TypeAdapter(Calibration).validate_python(tomllib.loads(text))
