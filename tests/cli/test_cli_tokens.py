"""Where the script's own arguments begin."""

import pytest

from meshwright.cli._tokens import misspelt, own_tokens, shadowed, with_script_separated, with_target_first

TAKES_VALUE = {"--set": True, "--memory": True, "--json": False}


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("train.py", "-- train.py"),
        ("train.py --lr 3 --help", "-- train.py --lr 3 --help"),
        ("--set a=1 --json train.py --json", "--set a=1 --json -- train.py --json"),
        ("--memory=4GiB train.py", "--memory=4GiB -- train.py"),
        ("--memory 4GiB", "--memory 4GiB"),
        ("-- train.py --lr", "-- train.py --lr"),
        ("--unknown x train.py", "--unknown -- x train.py"),
        ("", ""),
    ],
)
def test_the_script_is_the_first_token_that_is_no_option(typed: str, parsed: str) -> None:
    assert with_script_separated(typed.split(), takes_value=TAKES_VALUE) == parsed.split()


def test_own_options_end_at_the_script() -> None:
    assert own_tokens(["--json", "--", "train.py"]) == ["--json"]
    assert own_tokens(["--json"]) == ["--json"]


def test_options_of_ours_among_the_script_s_are_noticed() -> None:
    tokens = ["--json", "--", "train.py", "--memory=1", "--lr", "--memory"]
    assert shadowed(tokens, options=TAKES_VALUE) == ["--memory"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--memory=1 -- train.py --memroy=4GiB", {"--memroy": "--memory"}),
        ("-- train.py --sets a --memory 1 --jsn", {"--sets": "--set", "--jsn": "--json"}),
        ("-- train.py --seed 3 --batch-size 8 -- memory", {}),
        ("--memroy 1", {}),
    ],
)
def test_slips_of_the_finger_among_the_script_s_are_noticed(typed: str, meant: dict[str, str]) -> None:
    assert misspelt(typed.split(), options=["--set", "--memory", "--json"]) == meant


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("train.py --cluster h100:8x64", "--cluster h100:8x64 train.py"),
        ("--json train.py --lr 3 --cluster=a.toml", "--cluster=a.toml --json train.py --lr 3"),
        ("train.py -- --cluster mine", "train.py -- --cluster mine"),
        ("train.py --cluster", "--cluster train.py"),
        ("train.py --lr 3", "train.py --lr 3"),
    ],
)
def test_what_is_planned_for_may_stand_after_the_script(typed: str, parsed: str) -> None:
    assert with_target_first(typed.split(), options=["--cluster"]) == parsed.split()
