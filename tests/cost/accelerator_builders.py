"""A machine and a calibration with round numbers, for values that can be computed by hand."""

from dataclasses import replace

from meshwright.cost.accelerator import (
    Calibration,
    Habits,
    KernelShares,
    Machine,
    NetworkShares,
    Setup,
    Stalls,
    TrafficCounts,
)
from meshwright.graph import Transformer

# 100 TFLOP/s, 1 TB/s, hosts of 8 with 100 GB/s inside and 10 GB/s per device between them.
MACHINE = Machine(
    device="round", half=1e14, float8=2e14, single=5e13, bandwidth=1e12, memory=2**36, link=1e11, network=1e10,
    latency=1e-5, domain=8, num_devices=64,
)  # fmt: skip
HABITS = Habits(
    host=0.0, traffic=1.0, tensor_exposed=1.0, tensor_latency=1.0, hidden_share=0.0, reduction_exposed=0.0,
    gather_exposed=1.0, bubble=1.0, send=1.0, parameter_traffic=0.0, step=0.0, low=0.9, high=1.2,
)  # fmt: skip
CALIBRATION = Calibration(
    kernels=KernelShares(
        half=1.0, float8=1.0, single=1.0, plain=0.5, row_scaled=0.5, inner=0.0, fill=0.0, memory=1.0, flash=1.0,
        scores=0.1, plain_scores=0.2, launch=0.0, other_devices=1.0, steady=1.0, other_spread=1.5,
    ),
    traffic=TrafficCounts(
        hidden=0.0, ffn=0.0, vocabulary=0.0, optimizer=0.0, compiled=0.5, selective=0.5, captured=1.0
    ),
    network=NetworkShares(
        link=1.0, pcie=6e9, network=1.0, link_hop=1e-6, link_start=0.0, network_hop=1.0, network_start=0.0,
        ring_growth=1.0, switch_reduction=2.0, tree_slope=0.0, bucket=1e15, context=1.0,
    ),
    devices={"round": 1.0},
    frameworks={"other": HABITS},
)  # fmt: skip
MODEL = Transformer(layers=8, hidden=1024, heads=8, kv_heads=8, ffn=4096, vocab=32000, sequence=2048)
SETUP = Setup(model=MODEL, micro_batch=2, micro_batches=8, dp=8)


def with_habits(**changes: float | str | Stalls) -> Calibration:
    """The calibration with other habits."""
    habits = replace(HABITS, **changes)  # type: ignore[arg-type]
    return replace(CALIBRATION, frameworks={"other": habits})
