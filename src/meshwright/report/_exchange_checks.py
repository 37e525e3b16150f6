"""What the run found when it compared compressed steps, and steps apart, with exact ones."""

import json
from pathlib import Path
from typing import Any


def checks_sentence(folder: Path) -> str:
    """The comparisons of a run's `exchange.jsonl` in a sentence; empty where there were none.

    A line that is cut off, because the run was killed while it wrote, is left out.
    """
    file = folder / "exchange.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    checks = [json.loads(line) for line in lines if line.endswith("}")]
    if not checks:
        return ""
    return " ".join(
        part
        for part in (
            _compressed([check for check in checks if "stale" not in check]),
            _spans([check for check in checks if "stale" in check]),
        )
        if part
    )


def _compressed(checks: list[dict[str, Any]]) -> str:
    """What comparing compressed steps with exact ones found."""
    if not checks:
        return ""
    shortfalls = [check["shortfall"] for check in checks]
    refined = sum(check["refined"] for check in checks)
    found = (
        f"Compressed steps were compared with exact ones {_times(checks)}: the worst gained {max(shortfalls):.0%} "
        f"less, the last {shortfalls[-1]:.0%} less"
    )
    return f"{found}; more was sent after {refined} of them." if refined else f"{found}."


def _spans(checks: list[dict[str, Any]]) -> str:
    """What comparing steps apart, or late ones, with exact ones found, and what was changed."""
    if not checks:
        return ""
    shortfalls = [check["shortfall"] for check in checks]
    found = (
        f"Spans of {checks[-1]['steps']} steps apart were compared with exact ones {_times(checks)}: the worst gained "
        f"{max(shortfalls):.0%} less, the last {shortfalls[-1]:.0%} less, where {checks[-1]['tolerance']:.0%} is "
        "tolerated"
    )
    changes = [f"after step {check['step']} {check['change']}" for check in checks if check["change"]]
    return f"{found}; {'; '.join(changes)}." if changes else f"{found}."


def _times(checks: list[dict[str, Any]]) -> str:
    return "once" if len(checks) == 1 else f"{len(checks)} times"
