"""default < file < command line, and every value says where it came from."""

from pathlib import Path

import pytest

from meshwright.cli._options import GoalOptions, HostOptions, RunOptions
from meshwright.cli._settings import parse_pins, resolve
from meshwright.errors import UsageError
from meshwright.launch import Hosts, Value
from meshwright.plan import Pins
from meshwright.units import GIB, MIB


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "meshwright.toml"
    path.write_text(
        'memory = "2GiB"\nsteps = 7\nallow = ["precision"]\n[set]\nworkers = 2\nthreads = 1\n', encoding="utf-8"
    )
    return path


def test_without_anything_every_value_is_the_default() -> None:
    settings = resolve(GoalOptions(), RunOptions(), HostOptions())
    assert {value.origin for value in settings.values.values()} == {"default"}
    assert settings.goal.pins == Pins()
    assert settings.output == Path("outputs")
    assert settings.hosts == Hosts()


def test_the_file_goes_before_the_default(config: Path) -> None:
    settings = resolve(GoalOptions(config=config))
    assert settings.goal.memory_limit == 2 * GIB
    assert settings.goal.steps == 7
    assert settings.goal.pins == Pins(workers=2, threads=1)
    assert settings.values["memory"] == Value(value="2GiB", origin="file")
    assert settings.values["output"] == Value(value="outputs", origin="default")


def test_the_command_line_goes_before_the_file(config: Path) -> None:
    settings = resolve(GoalOptions(config=config, memory="3GiB", set=("workers=4", "compiled=true")), steps=9)
    assert settings.goal.memory_limit == 3 * GIB
    assert settings.goal.steps == 9
    assert settings.goal.pins == Pins(workers=4, threads=1, compiled=True)
    assert settings.goal.origins == {"workers": "command line", "threads": "file", "compiled": "command line"}
    assert settings.values["memory"] == Value(value="3GiB", origin="command line")
    assert settings.values["allow"] == Value(value=("precision",), origin="file")


def test_sizes_are_pinned_with_units() -> None:
    assert resolve(GoalOptions(set=("bucket_size=4MiB",))).goal.pins.bucket_size == 4 * MIB


def test_hosts_are_given_together() -> None:
    settings = resolve(HostOptions(nodes=2, rendezvous="first:29500", node_rank=1))
    assert settings.hosts == Hosts(count=2, rank=1, address="first", port=29500)


@pytest.mark.parametrize(
    ("text", "fact", "cause"),
    [
        ("worker=2", "--set: unknown key 'worker'", "did you mean 'workers'?"),
        ("workers", "--set workers: this is not KEY=VALUE", ""),
        ("bucket_size=big", "--set bucket_size: 'big' is not a size", ""),
        ("workers=two", "--set: workers: Input should be a valid integer", "read 'two'"),
        (
            "sharding=all",
            "--set: sharding: Input should be 'none', 'optimizer', 'gradients' or 'parameters'",
            "read 'all'",
        ),
        (
            "sharding=optimiser",
            "--set: sharding: Input should be 'none', 'optimizer', 'gradients' or 'parameters'",
            "read 'optimiser'; did you mean 'optimizer'?",
        ),
    ],
)
def test_a_pin_that_means_nothing_is_refused(text: str, fact: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(GoalOptions(set=(text,)))
    assert caught.value.fact.startswith(fact)
    assert caught.value.cause == cause


def test_a_misspelt_key_of_the_file_is_refused_with_the_one_meant(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('memmory = "1GiB"\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        resolve(GoalOptions(config=path))
    assert caught.value.fact == f"{path}: unknown key 'memmory'"
    assert caught.value.cause == "did you mean 'memory'?"


def test_an_allowance_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(GoalOptions(allow=("precison",)))
    assert str(caught.value) == (
        "--allow precison: there is nothing of that name to allow\n"
        "  because: did you mean 'precision'?\n"
        "  instead: what can be allowed: precision, compression, staleness, quantization, sparsity"
    )


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (HostOptions(nodes=2), "--nodes 2 without --rendezvous"),
        (HostOptions(nodes=2, rendezvous="first:29500", node_rank=2), "--node-rank 2 with --nodes 2"),
        (HostOptions(nodes=0, rendezvous="first:29500"), "--node-rank 0 with --nodes 0"),
    ],
)
def test_hosts_that_do_not_fit_together_are_refused(options: HostOptions, fact: str) -> None:
    with pytest.raises(UsageError, match=fact):
        resolve(options)


def test_axes_may_be_called_as_torch_calls_them() -> None:
    assert parse_pins(["tp=4", "pp=2", "dp_shard=2"]) == Pins(tensor=4, pipeline=2, shard=2)


def test_a_choice_is_pinned_once() -> None:
    with pytest.raises(UsageError, match="--set tensor twice: 2 and 4"):
        resolve(GoalOptions(set=("tp=2", "tensor=4")))
    assert resolve(GoalOptions(set=("tp=2", "tensor=2"))).goal.pins.tensor == 2


@pytest.mark.parametrize("steps", [-5, 0])
def test_a_run_has_at_least_one_step(steps: int) -> None:
    with pytest.raises(UsageError, match=f"--steps {steps}"):
        resolve(GoalOptions(), steps=steps)


@pytest.mark.parametrize(
    ("options", "option"),
    [({"tokens": "0"}, "--tokens 0"), ({"tokens": "1T", "deadline": "0d"}, "--deadline 0d"),
     ({"tokens": "1T", "budget": "0"}, "--budget 0")],
)  # fmt: skip
def test_a_limit_of_nothing_is_refused(options: dict[str, str], option: str) -> None:
    with pytest.raises(UsageError, match=option) as caught:
        resolve(GoalOptions(), **options)
    assert caught.value.alternatives == (f"leave out {option.partition(' ')[0]}",)
