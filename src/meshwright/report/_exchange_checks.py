"""What the run found when it compared compressed steps with exact ones."""

import json
from pathlib import Path


def checks_sentence(folder: Path) -> str:
    """The comparisons of a run's `exchange.jsonl` in a sentence; empty where there were none.

    A line that is cut off, because the run was killed while it wrote, is left out.
    """
    file = folder / "exchange.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    checks = [json.loads(line) for line in lines if line.endswith("}")]
    if not checks:
        return ""
    shortfalls = [check["shortfall"] for check in checks]
    refined = sum(check["refined"] for check in checks)
    times = "once" if len(checks) == 1 else f"{len(checks)} times"
    found = (
        f"Compressed steps were compared with exact ones {times}: the worst gained {max(shortfalls):.0%} less, "
        f"the last {shortfalls[-1]:.0%} less"
    )
    return f"{found}; more was sent after {refined} of them." if refined else f"{found}."
