"""Every shell and Python snippet of the README and the docs does what it says.

`make` targets are looked up, not run: they would run these tests. `meshwright` commands run in one copy of the
examples, one after another, as a reader would type them.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS_NOT_RUN = {"text", "diff", "toml"}


def snippets(page: Path, kind: str) -> list[str]:
    """The page's snippets of one kind, in order."""
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == kind]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_of_a_kind_that_is_checked_or_plainly_not_code(page: Path) -> None:
    kinds = {found for found, _ in FENCE.findall(page.read_text(encoding="utf-8"))}
    assert kinds <= KINDS_NOT_RUN | {"sh", "python"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "sh")], ids=lambda page: page.name)
def test_shell_snippets_run_in_order(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for line in filter(None, "\n".join(snippets(page, "sh")).splitlines()):
        words = line.split()
        if words[0] == "make":
            done = subprocess.run(
                ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
            )
        elif words[0] in ("meshwright", "python"):
            binary = Path(sys.executable).parent / words[0]
            done = subprocess.run([binary, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        else:
            pytest.fail(f"{page.name}: no reader could be sure what {line!r} does; use make, meshwright or python")
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "python")], ids=lambda page: page.name)
def test_python_snippets_run_in_order(page: Path) -> None:
    exec(compile("\n".join(snippets(page, "python")), str(page), "exec"), {})
