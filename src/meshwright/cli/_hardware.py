"""`meshwright hardware`."""

from pathlib import Path

from meshwright.cli._options import Flag
from meshwright.cli._output import print_json, print_view
from meshwright.documents import to_mapping
from meshwright.hardware import here, write_cluster
from meshwright.launch import Progress
from meshwright.report import hardware_table


def hardware(*, fresh: Flag = False, save: Path | None = None, json: Flag = False) -> None:
    """What is here, measured: cores, memory, matrix rates, memory bandwidth, collectives between processes.

    Measured once per machine, in under 30 s, and kept with date and machine.

    Parameters
    ----------
    fresh
        Measure again.
    save
        Also write it to this file, which --cluster takes.
    json
        Print one JSON object.
    """
    progress = Progress()
    cluster = here(fresh=fresh, progress=progress.status.say)
    progress.close()
    if save is not None:
        write_cluster(cluster, save)
    if json:
        print_json(to_mapping(cluster))
    else:
        print_view(hardware_table(cluster))
        if save is not None:
            print_view(f"written to {save}")
