"""`meshwright examples`."""

import ast
import shutil
from pathlib import Path

import meshwright
from meshwright.cli._options import Flag
from meshwright.cli._output import print_json, print_view
from meshwright.errors import UsageError, suggestion
from meshwright.report import examples_table


def examples(name: str | None = None, /, *, save: Path | None = None, json: Flag = False) -> None:
    """The examples: lists them, or copies one here.

    Parameters
    ----------
    name
        Which to copy.
    save
        Where to; here, under its own name, where not given.
    json
        Print one JSON object.
    """
    found = {path.stem: path for path in sorted(examples_folder().glob("*.py"))}
    if name is None:
        summaries = {stem: _first_line(path) for stem, path in found.items()}
        if json:
            print_json({"examples": summaries})
        else:
            print_view(examples_table(summaries))
        return
    target = copy_example(name, found=found, target=save)
    if json:
        print_json({"copied": str(target)})
    else:
        print_view(f"copied to {target}; next: meshwright run {target}")


def examples_folder() -> Path:
    """Where the examples lie: inside the installed package, or beside its sources in a checkout."""
    package = Path(meshwright.__file__).parent
    installed = package / "_examples"
    return installed if installed.is_dir() else package.parent.parent / "examples"


def copy_example(name: str, *, found: dict[str, Path], target: Path | None) -> Path:
    """Copies an example and gives its new path.

    Raises:
        UsageError: there is no such example, or a file of that name is there already.
    """
    source = found.get(name.removesuffix(".py"))
    if source is None:
        raise UsageError(
            f"there is no example {name!r}",
            cause=suggestion(name, list(found)),
            alternatives=[f"examples: {', '.join(found)}"],
            command="meshwright examples",
        )
    place = target or Path(source.name)
    if place.is_dir():
        place /= source.name
    if place.exists():
        raise UsageError(
            f"{place} is there already",
            cause="nothing is overwritten",
            alternatives=[f"another place: meshwright examples {source.stem} --save PATH"],
        )
    try:
        shutil.copyfile(source, place)
    except OSError as error:
        raise UsageError(
            f"cannot write {place}: {error.strerror}", command="meshwright examples NAME --save PATH"
        ) from None
    return place


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
