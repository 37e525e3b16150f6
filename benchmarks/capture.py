"""How long a capture takes and how much memory, up to Llama-3 405B: `python benchmarks/capture.py [--quick] [--json]`.

Every model is captured in a process of its own, as a planner meets it. Memory is the peak of the whole process, torch
and transformers included; imports and the making of the model are timed apart.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import outcome

SMALL = ("character_gpt", "digits_cnn", "transformers_bert", "tabular_mlp", "character_lstm", "transformers_resnet")
LARGE = "llama3_405b"
PLAIN = "llama3_405b_plain_fake_step"


def measure(name: str) -> dict[str, Any]:
    """One row: a model captured in a fresh process."""
    answer = subprocess.run(
        [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False, timeout=600
    )
    if answer.returncode != 0:
        raise SystemExit(f"capturing {name} failed:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def capture_once(name: str) -> dict[str, Any]:
    """Captures a model in this process and says what that took."""
    start = time.perf_counter()
    from meshwright.graph.capture import capture

    imported = time.perf_counter()
    model, optimizer, loss, batch = _llama() if name in (LARGE, PLAIN) else _small(name)
    made = time.perf_counter()
    row: dict[str, Any] = {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "import_seconds": imported - start,
        "build_seconds": made - imported,
    }
    if name == PLAIN:
        _plain_fake_step(model, loss, batch)
        row["capture_seconds"] = time.perf_counter() - made
    else:
        graph = capture(model, optimizer, loss, batch)
        row["capture_seconds"] = time.perf_counter() - made
        size = graph.batch_size
        row["flops"] = sum(operation.flops.at(size) * operation.repeats for operation in graph.operations)
        row["operations"] = sum(operation.repeats for operation in graph.operations)
        row["recorded"] = len(graph.operations)
        row["gaps"] = len(graph.gaps)
    row["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return row


def _small(name: str) -> tuple[Any, Any, Callable[..., Any], Any]:
    import torch

    from models import build

    job, _ = build(name)
    return job.model, torch.optim.AdamW(job.model.parameters()), job.loss, job.batch()


def _llama() -> tuple[Any, Any, Callable[..., Any], Any]:
    """Llama-3 405B from its configuration, on the meta device, and one sequence of 8192 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
        num_attention_heads=128,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tokens = torch.zeros(1, 8192, dtype=torch.long)

    def loss(model: Any, batch: Any) -> Any:
        return model(input_ids=batch, labels=batch).loss

    return model, torch.optim.AdamW(model.parameters()), loss, tokens


def _plain_fake_step(model: Any, loss: Callable[..., Any], batch: Any) -> None:
    """Forward and backward under FakeTensorMode without any recording, for comparison."""
    import copy

    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        fake = copy.deepcopy(model)
    with mode:
        loss(fake, mode.from_tensor(batch.to("meta"))).backward()


def checks_of(rows: list[dict[str, Any]]) -> list[outcome.Check]:
    """The targets of a capture."""
    large = next(row for row in rows if row["model"] == LARGE)
    slowest = max((row for row in rows if row["model"] in SMALL), key=lambda row: row["capture_seconds"])
    captured = [row for row in rows if row["model"] != PLAIN]
    return [
        outcome.at_most("Llama-3 405B, seconds to capture", large["capture_seconds"], 10),
        outcome.at_most("Llama-3 405B, GiB of the whole process", large["peak_bytes"] / 2**30, 2),
        outcome.at_most(f"slowest small model ({slowest['model']}), seconds", slowest["capture_seconds"], 1.5),
        outcome.at_most("models with gaps", sum(row["gaps"] > 0 for row in captured), 0),
    ]


def main() -> int:
    """Measures, prints, and says whether the targets hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="two small models and the large one, under 60 s")
    parser.add_argument("--one", metavar="MODEL", help="capture this one in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(capture_once(arguments.one)))
        return 0
    there = outcome.machine()
    names = ("character_gpt", "digits_cnn", LARGE) if arguments.quick else (*SMALL, LARGE, PLAIN)
    rows = [measure(name) for name in names]
    return outcome.publish(rows, checks_of(rows), there=there, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
