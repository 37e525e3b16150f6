"""A run's folder is made before anything starts, says what it holds, and can be found again."""

from pathlib import Path

import pytest

from meshwright.documents import read_toml
from meshwright.errors import UsageError
from meshwright.launch import RunFolder, Value, create_run_folder, latest_run, write_record
from meshwright.launch._run_folder import RunRecord


def test_it_is_named_after_the_script_and_the_time(tmp_path: Path) -> None:
    folder = create_run_folder(Path("somewhere/train.py"), output=tmp_path / "outputs")
    assert folder.path.parent == tmp_path / "outputs"
    assert folder.path.name.startswith("train-20")
    assert folder.log(0, "out").parent.is_dir()
    assert folder.error(0).parent.is_dir()


def test_two_in_the_same_second_are_two(tmp_path: Path) -> None:
    paths = {create_run_folder(Path("train.py"), output=tmp_path).path for _ in range(3)}
    assert len(paths) == 3


def test_a_given_name_is_taken_once(tmp_path: Path) -> None:
    create_run_folder(Path("train.py"), output=tmp_path, name="job-7")
    with pytest.raises(UsageError, match="job-7 is there already"):
        create_run_folder(Path("train.py"), output=tmp_path, name="job-7")


def test_a_place_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        create_run_folder(Path("train.py"), output=tmp_path / "file" / "outputs")
    assert str(caught.value) == (
        f"cannot make a run's folder in {tmp_path}/file/outputs: Not a directory\n"
        "  because: every run writes its plan, metrics, logs and report there, so nothing was started\n"
        "  instead: give a folder that can be written: --output FOLDER\n"
        "  next:    meshwright run --output /tmp/outputs SCRIPT"
    )


def test_the_latest_run_is_the_one_recorded_last(tmp_path: Path) -> None:
    for name in ("b", "a"):
        folder = create_run_folder(Path("train.py"), output=tmp_path, name=name)
        write_record(folder, script=Path("train.py"), arguments=(), values={}, command=())
    assert latest_run(tmp_path).path.name == "a"


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run in"):
        latest_run(tmp_path)


def test_the_record_keeps_every_value_and_its_origin(tmp_path: Path) -> None:
    folder = RunFolder(path=tmp_path)
    values = {
        "workers": Value(value=2, origin="command line"),
        "fresh": Value(value=True, origin="default"),
        "allow": Value(value=("precision",), origin="file"),
    }
    write_record(folder, script=Path("train.py"), arguments=("--lr", "3"), values=values, command=("meshwright", "run"))
    record = read_toml(RunRecord, folder.record)
    assert record.values == values
    assert record.arguments == ("--lr", "3")
    assert record.versions["torch"].startswith("2.")
