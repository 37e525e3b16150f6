"""What is typed wrongly is refused with exit code 2, as text, and says what was meant."""

import json
import re
import socket
from pathlib import Path

import pytest

from meshwright.cli._app import VERBS, run_command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test types its command in an empty folder with one script."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('never run')\n", encoding="utf-8")
    return tmp_path


def _refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What is said about a command that is wrong; without a traceback, and with nothing on standard output."""
    assert run_command(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_a_misspelt_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "rum train.py") == (
        "meshwright: unknown command 'rum'\n"
        "  because: did you mean 'run'?\n"
        "  instead: commands: hardware, plan, explain, run, verify, report, examples\n"
        "  next:    meshwright --help\n"
    )


def test_a_misspelt_option(capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(capsys, "run --memry 4GiB train.py")
    assert said.splitlines()[:2] == [
        "meshwright: unknown option '--memry' of meshwright run",
        "  because: did you mean '--memory'?",
    ]
    assert said.endswith("  next:    meshwright run --help\n")


@pytest.mark.parametrize("verb", ["hardware", "explain", "report", "examples"])
def test_a_misspelt_option_of_the_other_verbs(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert "because: did you mean '--json'?" in _refused(capsys, f"{verb} --jso")


def test_a_misspelt_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "run trian.py") == (
        "meshwright: there is no script trian.py\n"
        "  because: did you mean 'train.py'?\n"
        "  instead: scripts there: train.py\n"
        "  next:    meshwright run SCRIPT\n"
    )


def test_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "plan nowhere/train.py") == (
        "meshwright: there is no script nowhere/train.py\n"
        "  because: nowhere is no folder\n"
        "  next:    meshwright run SCRIPT\n"
    )


def test_a_folder_in_place_of_a_script(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "src").mkdir()
    assert "src is a folder, not a script" in _refused(capsys, "verify src")


def test_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "run").endswith("  next:    meshwright run --help\n")


def test_a_misspelt_pin(capsys: pytest.CaptureFixture[str]) -> None:
    assert "because: did you mean 'workers'?" in _refused(capsys, "run --set worker=2 train.py")


def test_a_size_without_a_unit_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "plan --memory 4gigs train.py").startswith("meshwright: --memory: '4gigs' is not a size")


def test_an_output_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(capsys, "run --output train.py/outputs train.py")
    assert said.splitlines()[0] == "meshwright: cannot make a run's folder in train.py/outputs: Not a directory"


def test_a_plan_and_wishes_for_a_plan(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert _refused(capsys, "run --plan plan.toml --set workers=2 train.py") == (
        "meshwright: --plan plan.toml together with --set, --allow or --memory\n"
        "  because: those steer the making of a plan, and this one is made\n"
        "  instead: leave out --plan\n"
        "  instead: leave out the others\n"
        "  instead: edit the plan's file\n"
        "  next:    meshwright plan SCRIPT\n"
    )
    assert not (folder / "outputs").exists()


def test_a_cluster_without_hosts(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "c.toml").write_text("name = 'c'\nhosts = []\n", encoding="utf-8")
    assert "c.toml has no hosts" in _refused(capsys, "plan --cluster c.toml train.py")


def test_a_plan_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "explain plan.toml") == ("meshwright: cannot read plan.toml: No such file or directory\n")


def test_no_run_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "report").startswith("meshwright: there is no run in outputs\n")


def test_inside_torchrun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert _refused(capsys, "run train.py").startswith("meshwright: meshwright run was started by torchrun\n")


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command(f"run --nodes 2 --rendezvous localhost:{port} train.py".split()) == 10
    assert capsys.readouterr().err.startswith(f"meshwright: port {port} cannot be used: Address already in use\n")
    assert not (folder / "outputs").exists()


def test_for_machines_an_error_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--json", "trian.py"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("meshwright: there is no script trian.py")
    assert json.loads(out)["error"] == {
        "kind": "UsageError",
        "fact": "there is no script trian.py",
        "cause": "did you mean 'train.py'?",
        "alternatives": ["scripts there: train.py"],
        "command": "meshwright run SCRIPT",
        "exit_code": 2,
    }


def test_options_after_the_script_are_the_script_s_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "trian.py", "--memory", "1MiB"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "note: --memory stands after the script and goes to it; Meshwright's own stand before"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_s_help_has_an_example_that_parses(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert run_command([verb, "--help"]) == 0
    text = capsys.readouterr().out
    example = re.search(r"For example: meshwright (.*)", text)
    assert example is not None
    words = example[1].split()
    assert words[0] == verb
    shown = set(re.findall(r"--[a-z-]+", text))
    script = words.index("train.py") if "train.py" in words else len(words)
    assert {word for word in words[:script] if word.startswith("--")} <= shown
    assert "--json" in shown


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^│ {verb} ", text, re.MULTILINE) for verb in VERBS)
