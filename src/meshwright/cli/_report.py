"""`meshwright report`."""

from pathlib import Path

from meshwright.cli._options import Flag
from meshwright.cli._output import print_json, print_view
from meshwright.launch import latest_run
from meshwright.report import write_page


def report(
    run: Path | None = None, other: Path | None = None, /, *, save: Path | None = None, json: Flag = False
) -> None:
    """One page about a run, or about two compared: an HTML file that needs no network.

    Parameters
    ----------
    run
        The folder of a run; the newest one in outputs where none is given.
    other
        A second run, to compare with.
    save
        Where the page is written; beside the run where not given.
    json
        Print one JSON object.
    """
    page = write_page(latest_run(Path("outputs")).path if run is None else run, other, save)
    if json:
        print_json({"report": str(page)})
    else:
        print_view(str(page))
