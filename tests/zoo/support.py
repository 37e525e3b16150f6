"""Makes the support table: `python tests/zoo/support.py [--models NAME …] [--methods NAME …]`."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from workers import Pools, WorkerFailedError
from zoo import ZOO
from zoo._cell import Cell, run_cell
from zoo._methods import COMBINATIONS, METHODS, Method
from zoo._table import read, write

ALL = (*METHODS, *COMBINATIONS)


def main() -> None:
    """Runs the cells that are asked for, and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[model.name for model in ZOO])
    parser.add_argument("--methods", nargs="*", default=[method.name for method in ALL])
    parser.add_argument("--only", nargs="*", default=["equal", "declined", "different", "failed", "new"])
    chosen = parser.parse_args()
    table = read()
    pools = Pools()
    for method in ALL:
        for model in ZOO:
            before = table.get(model.name, {}).get(method.name)
            verdict = before.verdict if before is not None else "new"
            if model.name not in chosen.models or method.name not in chosen.methods or verdict not in chosen.only:
                continue
            if not method.suits(model):
                continue
            started = time.perf_counter()
            cell = measured(pools, model.name, method)
            table = read()  # another run may have written other cells meanwhile
            table.setdefault(model.name, {})[method.name] = cell
            seconds = time.perf_counter() - started
            print(
                f"{method.name:36}{model.name:16}{cell.verdict:10}{cell.distance:8.0e}  {seconds:5.1f} s  {cell.reason}"
            )
            write(table)


def measured(pools: Pools, model_name: str, method: Method) -> Cell:
    """One cell, in the pool of the method's size; all workers have to say the same."""
    try:
        cells = pools(method.workers).run(run_cell, model_name, method.name, timeout=240)
    except WorkerFailedError as error:
        return Cell(verdict="failed", reason=str(error).strip().splitlines()[-1])
    return cells[0] if len({cell.verdict for cell in cells}) == 1 else Cell(verdict="failed", reason="workers disagree")


if __name__ == "__main__":
    main()
