"""Each way of splitting a model against the same plan written by hand with torch's own pieces, on two processes.

    python benchmarks/parallel.py              # every method on a GPT of 25M parameters and an MLP; about 15 minutes
    python benchmarks/parallel.py --quick      # few rounds of tensor on the GPT, about half a minute
    python benchmarks/parallel.py --json

`hybrid` is stages by shards by parts of tensors, on eight processes. Both sides of a pair run in turns on the same
machine; what counts is their ratio and their peak memory. Bubbles against their formulas are in `pipeline.py`.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import outcome
from meshwright.units import format_bytes, format_seconds
from referee import HERE, Contest

PAIRS = (
    ("data", "gpt"), ("sharded", "gpt"), ("tensor", "gpt"), ("sequence", "gpt"), ("pipeline", "gpt"),
    ("interleaved", "gpt"), ("zero_bubble", "gpt"), ("hybrid", "gpt"),
    ("data", "mlp"), ("sharded", "mlp"), ("tensor", "mlp"), ("pipeline", "mlp"),
)  # fmt: skip


WORKERS = {"hybrid": 8}
QUICK = ("tensor",)
# Time and peak memory of a method over the same plan by hand.
TARGET = 1.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One method on one model.

    Args:
        method: data, sharded, tensor, sequence, pipeline, interleaved, zero_bubble or hybrid.
        model: gpt or mlp.
        ours: median step (s).
        torch: median step of the hand-written plan (s).
        ratio: median of the ratios round by round; below 1 Meshwright is faster.
        memory: peak of the fullest process (B).
        torch_memory: likewise of the hand-written plan (B).
    """

    method: str
    model: str
    ours: float
    torch: float
    ratio: float
    memory: int
    torch_memory: int


def measured(method: str, model: str, *, rounds: int, block: float, logs: Path) -> Pair:
    """Both sides in turns."""
    ways = {side: f"{method}:{side}:{model}" for side in ("ours", "torch")}
    with Contest(logs) as contest:
        for way in ways.values():
            script = str(HERE / "parallel_contestant.py")
            workers = str(WORKERS.get(method, 2))
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", workers]
            contest.start(way, [*launcher, script, way, str(contest.port), str(logs)])
        seconds = contest.rounds(rounds, block=block)
    mine, theirs = seconds[ways["ours"]], seconds[ways["torch"]]
    return Pair(
        method=method,
        model=model,
        ours=median(mine),
        torch=median(theirs),
        ratio=median(one / other for one, other in zip(mine, theirs, strict=True)),
        memory=_memory(logs, method, "ours", model),
        torch_memory=_memory(logs, method, "torch", model),
    )


def _memory(logs: Path, method: str, side: str, model: str) -> int:
    files = logs.glob(f"{method}-{side}-{model}-*.memory")
    return max(int(file.read_text(encoding="ascii")) for file in files)


def _line(pair: Pair) -> str:
    times = f"{format_seconds(pair.ours):>9} by hand {format_seconds(pair.torch):>9} ratio {pair.ratio:.3f}"
    memory = f"memory {format_bytes(pair.memory)} by hand {format_bytes(pair.torch_memory)}"
    return f"{pair.method:9} {pair.model:4} {times}   {memory}"


def checks_of(pair: Pair) -> list[outcome.Check]:
    """Time and memory against the plan by hand."""
    name = f"{pair.method}, {pair.model}"
    return [
        outcome.at_most(f"{name}: time over the plan by hand", pair.ratio, TARGET),
        outcome.at_most(f"{name}: memory over the plan by hand", pair.memory / pair.torch_memory, TARGET),
    ]


def main() -> int:
    """Measures all pairs, prints a line for each, and the checks; 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of tensor on the GPT")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--only", help="one method")
    parser.add_argument("--model", choices=("gpt", "mlp"), help="one model")
    parser.add_argument("--rounds", type=int, default=11, help="how often the sides take turns")
    parser.add_argument("--block", type=float, default=3.0, help="seconds of a turn")
    chosen = parser.parse_args()
    there = outcome.machine()
    wanted = [pair for pair in PAIRS if pair[0] in QUICK and pair[1] == "gpt"] if chosen.quick else PAIRS
    pairs = [pair for pair in wanted if chosen.only in (None, pair[0]) and chosen.model in (None, pair[1])]
    rounds, block = (2, 1.0) if chosen.quick else (chosen.rounds, chosen.block)
    found = []
    for method, model in pairs:
        with tempfile.TemporaryDirectory(prefix="parallel-") as folder:
            pair = measured(method, model, rounds=rounds, block=block, logs=Path(folder))
        found.append(pair)
        if not chosen.json:
            print(_line(pair), flush=True)
    checks = [check for pair in found for check in checks_of(pair)]
    rows = [asdict(pair) for pair in found] if chosen.json else []
    return outcome.publish(rows, checks, there=there, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
