"""Fabricated runs: plans, measurements and folders as the other rooms write them."""

import json
import random
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

from meshwright.cost import (
    Batch,
    Exchange,
    Kernels,
    Measurement,
    MemoryBreakdown,
    Mesh,
    Prediction,
    StepRecord,
    Strategy,
    TimeBreakdown,
    Verification,
    Worker,
)
from meshwright.documents import to_json, write_toml
from meshwright.hardware import Cluster, CollectiveRate, Device, Host, Link, MatrixRate, OperationRate
from meshwright.plan import Candidate, Plan
from meshwright.units import GIB, MIB

PREDICTED_TIME = TimeBreakdown(forward=0.020, backward=0.042, optimizer=0.006, communication=0.004, overhead=0.001)
MEASURED_TIME = TimeBreakdown(forward=0.021, backward=0.0445, optimizer=0.0055, communication=0.005, overhead=0.001)
PREDICTED_MEMORY = MemoryBreakdown(
    context=180 * MIB, parameters=12 * MIB, gradients=12 * MIB, optimizer=24 * MIB, activations=96 * MIB,
    transient=30 * MIB, batch=MIB, communication=12 * MIB, allocator=8 * MIB,
)  # fmt: skip


def strategy(*, workers: int = 2, **changes: Any) -> Strategy:
    """Data parallel over some workers of one thread each."""
    fields: dict[str, Any] = {
        "workers": tuple(Worker(rank=n, host="laptop", device="cpu", threads=1, cores=(n,)) for n in range(workers)),
        "mesh": Mesh(dp_replicate=workers),
        "batch": Batch(size=32, shares=(1,) * workers),
        "kernels": Kernels(matrix_library="onednn", optimizer="fused"),
        "exchange": Exchange(transport="shared_memory"),
    }
    return Strategy(**{**fields, **changes})


def prediction() -> Prediction:
    """A step of 73 ms and 375 MiB."""
    return Prediction(basis="trial", time=PREDICTED_TIME, low=0.068, high=0.080, memory=PREDICTED_MEMORY, flops=2.1e10)


def plan(**changes: Any) -> Plan:
    """Two workers chosen over four other plans."""
    chosen = strategy()
    candidates = (
        Candidate(summary=chosen.summary, step=0.0731, trial=0.0730, memory=PREDICTED_MEMORY.peak),
        Candidate(summary="1 worker × 2 threads, oneDNN matrices, fused optimizer", step=0.082, trial=0.0842,
                  memory=410 * MIB, reason="15 % slower when tried: two threads reach 1.7 × one"),
        Candidate(summary="1 worker × 2 threads", step=0.121, trial=0.1253, memory=410 * MIB,
                  reason="72 % slower when tried: torch's own matrix products reach 190 GFLOP/s of 430"),
        Candidate(summary="2 workers × 1 thread, data parallel 2, gloo exchange", step=0.091,
                  memory=375 * MIB, reason="25 % slower as predicted: exchange over gloo takes 18 ms more"),
        Candidate(summary="2 workers × 1 thread, data parallel 2, bfloat16 compute", fits=True,
                  reason="changes the mathematics: allow it with --allow precision"),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "model": "CharacterGPT", "strategy": chosen, "prediction": prediction(), "memory_limit": 512 * MIB,
        "binding": "The backward binds: 42.0 ms of 73.0 ms, matrix products at 81 % of the measured rate.",
        "flips": ("One worker would win if the exchange took 11.2 ms longer per step.",),
        "candidates": candidates, "origins": {"workers": "measured", "threads": "measured"},
        "cluster": "laptop (2 cores)",
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def cluster() -> Cluster:
    """A laptop of two cores."""
    device = Device(
        kind="cpu", name="Zen 5", cores=2, memory=24 * GIB, context=180 * MIB, source="measured",
        matrix_rates=(
            MatrixRate(dtype="float32", threads=1, size=512, rate=9.7e10),
            MatrixRate(dtype="float32", threads=2, library="onednn", size=1024, rate=4.3e11),
            MatrixRate(dtype="float32", threads=2, library="onednn", size=64, rate=1e10),
            MatrixRate(dtype="bfloat16", threads=1, size=512, rate=9e11, exact=False),
        ),
        operation_rates=(
            OperationRate(kind="copy", threads=2, bandwidth=3e10, overhead=2e-6),
            OperationRate(kind="convolution", threads=1, bandwidth=6e10, overhead=2e-5),
        ),
    )  # fmt: skip
    rate = CollectiveRate(collective="all_reduce", transport="shared_memory", group=2, latency=3e-5, bandwidth=8e9)
    link = Link(tier="host", latency=3e-5, bandwidth=8e9, collectives=(rate,))
    return Cluster(
        name="laptop", measured_at="2026-11-22T13:00:00+00:00", load=0.03,
        hosts=(Host(name="laptop", device=device),), links=(link,),
    )  # fmt: skip


def measurement(**changes: Any) -> Measurement:
    """A finished run of 400 steps, 5 % slower than predicted."""
    fields: dict[str, Any] = {
        "status": "finished", "steps": 400, "step": MEASURED_TIME.step, "low": 0.074, "high": 0.086,
        "time": MEASURED_TIME, "memory": 391 * MIB, "memory_by_rank": (391 * MIB, 378 * MIB),
    }  # fmt: skip
    return Measurement(**{**fields, **changes})


def verification(**changes: Any) -> Verification:
    """Equal to one device but for rounding."""
    fields: dict[str, Any] = {
        "equal": True, "steps": 3, "dtype": "float32", "strategy": strategy().summary, "tolerance": 1e-5,
        "loss": 2e-8, "gradient": 3.1e-7, "worst_gradient": "head.weight", "worst_gradient_distance": 2e-7,
        "parameters": 4e-6, "parameter_tolerance": 1e-3, "worst_parameter": "blocks.0.attention.key.bias",
        "worst_parameter_distance": 3e-6, "losses": (4.17, 4.02, 3.91), "reference_losses": (4.17, 4.02, 3.91),
    }  # fmt: skip
    return Verification(**{**fields, **changes})


def records(steps: int = 400, *, speed: float = 1.0, seed: int = 0) -> list[StepRecord]:
    """Steps whose loss falls from about 4.2 towards 1.4."""
    noise = random.Random(seed)
    found = []
    elapsed = 0.0
    for step in range(1, steps + 1):
        duration = MEASURED_TIME.step / speed * noise.uniform(0.94, 1.1) + (0.3 if step == 1 else 0.0)
        elapsed += duration
        found.append(
            StepRecord(
                step=step,
                loss=1.4 + 2.8 * exp(-step / 90) + noise.uniform(-0.05, 0.05),
                duration=duration,
                samples_per_second=32 / duration,
                memory=391 * MIB,
                elapsed=elapsed,
                time=MEASURED_TIME,
            )
        )
    return found


def run_settings(**values: Any) -> str:
    """A `run.toml` as the launcher writes it."""
    lines = [
        'script = "examples/character_gpt.py"',
        'arguments = ["--steps", "400"]', 'started = "2026-11-22T13:05:00+00:00"',
        'host = "laptop"', "[versions]", 'python = "3.12.3"', 'torch = "2.13.0"',
        "[values.workers]", "value = 2", 'origin = "measured"',
        "[values.memory]", 'value = "512MiB"', 'origin = "command line"',
    ]  # fmt: skip
    for name, value in values.items():
        lines += [f"[values.{name}]", f"value = {json.dumps(value)}", 'origin = "command line"']
    return "\n".join(lines) + "\n"


def write_run(folder: Path, *, speed: float = 1.0, seed: int = 0, steps: int = 400) -> Path:
    """A complete run: plan, steps, sums, settings and machine."""
    folder.mkdir(parents=True)
    write_toml(plan(), folder / "plan.toml")
    write_toml(replace(measurement(), step=MEASURED_TIME.step / speed, steps=steps), folder / "measurement.toml")
    write_toml(cluster(), folder / "cluster.toml")
    write_records(folder / "metrics.jsonl", records(steps, speed=speed, seed=seed))
    (folder / "run.toml").write_text(run_settings(), encoding="utf-8")
    return folder


def write_records(path: Path, lines: list[StepRecord]) -> None:
    """Steps as JSON Lines."""
    path.write_text("".join(to_json(line) + "\n" for line in lines), encoding="utf-8")
