"""One line of progress, and the script's own output beside it, untouched."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from launch_builders import run_folder
from meshwright.launch import Progress
from meshwright.launch._log_tail import LineTail
from meshwright.launch._progress import progress_text
from meshwright.launch._status import StatusLine
from meshwright.units import MIB

RECORD = {"step": 50, "loss": 2.34567, "samples_per_second": 1234.5, "memory": 512 * MIB, "elapsed": 10.0}


def test_the_line_without_an_end_in_sight() -> None:
    assert progress_text([RECORD]) == "step 50 · loss 2.3457 · 1,234 samples/s · 512.00 MiB"


def test_the_time_left_is_told_where_the_end_is_known() -> None:
    """50 steps took 10 s, so 200 more take 40 s."""
    assert progress_text([RECORD], num_steps=250) == (
        "step 50/250 · loss 2.3457 · 1,234 samples/s · 512.00 MiB · 40 s left"
    )


def test_nothing_is_left_at_the_end_and_little_things_are_shown_finely() -> None:
    record = {**RECORD, "samples_per_second": 3.21, "memory": 0}
    assert progress_text([record], num_steps=50) == "step 50/50 · loss 2.3457 · 3.2 samples/s"


def test_a_loop_that_keeps_its_loss_to_itself_is_shown_without_one() -> None:
    assert progress_text([{**RECORD, "loss": None}]) == "step 50 · 1,234 samples/s · 512.00 MiB"


def test_a_script_that_goes_on_is_shown_without_the_total_it_passed() -> None:
    assert progress_text([RECORD], num_steps=12) == "step 50 · loss 2.3457 · 1,234 samples/s · 512.00 MiB"


def test_throughput_is_examples_over_time() -> None:
    """10 examples in 0.1 s and 10 in 0.9 s are 20 a second, not the 55.6 of the rates' mean."""
    records = [{**RECORD, "samples_per_second": 10 / seconds} for seconds in (0.1, 0.9)]
    assert "· 20.0 samples/s ·" in progress_text(records)


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    tail, path = LineTail(tmp_path / "f"), tmp_path / "f"
    assert tail.read() == []
    path.write_text("one\ntw", encoding="utf-8")
    assert tail.read() == ["one"]
    with path.open("a", encoding="utf-8") as file:
        file.write("o\n")
    assert tail.read() == ["two"]
    tail.close()


def test_without_a_terminal_lines_are_plain_and_rare() -> None:
    out = io.StringIO()
    line = StatusLine(Console(file=out, force_terminal=False), interval=3600)
    line.announce("planning")
    line.announce("planning")
    for step in range(100):
        line.show(f"step {step}")
    line.close()
    assert out.getvalue() == "planning\nstep 99\n"


def test_on_a_terminal_the_line_is_replaced_and_makes_room() -> None:
    out = io.StringIO()
    line = StatusLine(Console(file=out, force_terminal=True, width=20, color_system=None))
    line.show("step 1")
    line.show("a line that is longer than the terminal")
    line.say("stays")
    line.close()
    erase = "\r\x1b[2K"
    long = "a line that is lon…"
    assert out.getvalue() == f"{erase}step 1{erase}{long}{erase}stays\n{erase}{long}\n"


@pytest.fixture
def streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def test_the_script_s_output_goes_on_byte_for_byte(
    tmp_path: Path, streams: tuple[io.TextIOWrapper, io.TextIOWrapper]
) -> None:
    folder, (out, err) = run_folder(tmp_path), streams
    progress = Progress(script_output=out, errors=err)
    progress.follow(folder)
    data = b"caf\xc3\xa9 \xff\x00\r 50%\nno end of line"
    folder.log(0, "out").write_bytes(data[:5])
    progress.refresh()
    folder.log(0, "out").write_bytes(data)
    folder.log(0, "err").write_bytes(b"a warning\n")
    progress.refresh()
    progress.close()
    assert out.buffer.getvalue() == data  # type: ignore[attr-defined]
    assert err.buffer.getvalue() == b"a warning\n"  # type: ignore[attr-defined]


def test_the_last_step_is_left_standing(tmp_path: Path, streams: tuple[io.TextIOWrapper, io.TextIOWrapper]) -> None:
    folder, (out, err) = run_folder(tmp_path), streams
    progress = Progress(script_output=out, errors=err)
    progress.follow(folder, num_steps=50)
    lines = [json.dumps({**RECORD, "step": step}) + "\n" for step in (1, 50)]
    folder.metrics.write_text(lines[0], encoding="utf-8")
    progress.refresh()
    folder.metrics.write_text("".join(lines), encoding="utf-8")
    progress.close()
    err.flush()
    shown = err.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
    assert [line.split(" · ")[0] for line in shown] == ["step 1/50", "step 50/50"]
