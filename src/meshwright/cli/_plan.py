"""`meshwright plan`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meshwright.cli._options import AimOptions, Flag, GoalOptions
from meshwright.cli._output import print_json, print_view
from meshwright.cli._session import find_cluster, find_plan, scratch_folder
from meshwright.cli._settings import Settings, resolve
from meshwright.documents import to_mapping, write_text
from meshwright.graph import read_graph
from meshwright.hardware import Cluster, write_cluster
from meshwright.launch import Progress, check_script
from meshwright.plan import Plan, check_deadline, choose, is_elsewhere, plan_outright, shortlist, write_plan
from meshwright.report import layout_view, plan_table

GRAPH_SUFFIX = ".json"


def plan(
    script: Path,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    goal: GoalOptions | None = None,
    aim: AimOptions | None = None,
    save: Path = Path("plan.toml"),
    json: Flag = False,
) -> None:
    """The plans for a script: the chosen one, and why each of the others was not; writes plan.toml.

    The script runs up to its first step in processes that are thrown away. Exit code 3 where nothing fits.

    Parameters
    ----------
    script
        The script, or the graph.json of a run: a saved graph is planned without torch and without trials.
    arguments
        Its own arguments.
    save
        Where the plan is written.
    json
        Print one JSON object.
    """
    check_script(script)
    settings = resolve(goal or GoalOptions(), aim or AimOptions())
    progress = Progress()
    made = _plan_of_graph(script, settings, progress, save) if script.suffix == GRAPH_SUFFIX else None
    if made is None:
        cluster = find_cluster(settings, progress=progress)
        with scratch_folder() as folder:
            made = find_plan(
                script, arguments, settings=settings, cluster=cluster, folder=Path(folder), progress=progress
            )
            _keep(Path(folder) / "graph.json", cluster, save)
    progress.close()
    write_plan(made, save)
    if json:
        print_json({"path": str(save), "plan": to_mapping(made)})
    else:
        print_view(plan_table(made))
        print_view(layout_view(made))
        print_view(f"written to {save}; why: meshwright explain {save}")


def _keep(found: Path, cluster: Cluster, plan: Path) -> None:
    """Puts the graph and the cluster beside the plan, so that `explain --set` can price changes of it."""
    if found.is_file():
        graph, description = plan.with_suffix(".graph.json"), plan.with_suffix(".cluster.toml")
        write_text(graph, found.read_text(encoding="utf-8"))
        write_cluster(cluster, description)


def _plan_of_graph(path: Path, settings: Settings, progress: Progress, save: Path) -> Plan:
    graph, cluster, goal = read_graph(path), find_cluster(settings, progress=progress), settings.goal
    if is_elsewhere(cluster) or goal.weighs_more_than_time:
        made = plan_outright(graph, cluster, goal)
    else:
        made = choose(graph, cluster, goal, shortlist(graph, cluster, goal))
        check_deadline(made.target, goal)
    _keep(path, cluster, save)  # not before: an earlier plan stays with what it was made of
    return made
