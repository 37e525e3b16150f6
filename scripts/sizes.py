"""Prints the size of every source file and fails where one is longer than a reader's patience (400 lines)."""

import sys
from pathlib import Path

LIMIT = 400


def main() -> int:
    """Prints the largest files and the median; returns 1 where a file is over the limit."""
    root = Path(__file__).resolve().parent.parent
    sizes = sorted(
        (len(path.read_text(encoding="utf-8").splitlines()), path.relative_to(root))
        for folder in ("src", "tests", "benchmarks", "examples", "scripts")
        for path in (root / folder).rglob("*.py")
    )
    over = [(lines, path) for lines, path in sizes if lines > LIMIT]
    print(f"{len(sizes)} files, median {sizes[len(sizes) // 2][0]} lines, largest {sizes[-1][0]} ({sizes[-1][1]})")
    for lines, path in over:
        print(f"{path}: {lines} lines; the limit is {LIMIT}: find the second concept in it and give it a file")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
