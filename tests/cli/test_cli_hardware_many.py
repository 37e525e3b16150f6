"""One host is measured and saved; plans are made for many hosts like it."""

import json
import tomllib
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

from meshwright.cli._app import run_command
from meshwright.cli._session import named_cluster
from meshwright.graph import write_graph
from meshwright.hardware import hosts_like, identity, load_now, read_cluster, write_cluster
from meshwright.hardware._cache import calibration_path
from planning_builders import GB, accelerators, machine, multilayer, processor

GRAPH = multilayer(layers=8, batch=256)


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of this machine, made by hand: two cores, nothing known of a network."""
    monkeypatch.setenv("MESHWRIGHT_CACHE", str(tmp_path / "cache"))
    write_cluster(replace(machine(), identity=identity(), load=load_now()), calibration_path(identity()))
    write_graph(GRAPH, tmp_path / "graph.json")


def planned(cluster: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    options = ["--cluster", str(cluster), "--save", str(cluster.with_name("plan.toml")), "--json"]
    assert run_command(["plan", *options, str(cluster.with_name("graph.json"))]) == 0
    return json.loads(capsys.readouterr().out)["plan"]


def test_many_hosts_are_planned_for_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.toml"
    assert run_command(["hardware", "--save", str(path), "--hosts", "4", "--network", "100Gbit/s", "--json"]) == 0
    capsys.readouterr()
    cluster = read_cluster(path)
    assert (cluster.hosts[0].count, cluster.links[-1].bandwidth, cluster.identity) == (4, 12.5e9, "")
    plan = planned(path, capsys)
    assert {worker["host"] for worker in plan["strategy"]["workers"]} == {f"here-{index}" for index in range(4)}
    assert plan["prediction"]["basis"] == "model"


def test_edited_as_the_file_itself_says_it_plans_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, told = tmp_path / "edited.toml", tmp_path / "told.toml"
    assert run_command(["hardware", "--save", str(path), "--json"]) == 0
    assert run_command(["hardware", "--save", str(told), "--hosts", "16", "--network", "25GB/s", "--json"]) == 0
    capsys.readouterr()
    text = path.read_text(encoding="utf-8")
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    block = takewhile(lambda line: line.startswith("    "), comments[comments.index("    [[links]]") :])
    added = "\n".join(block)
    assert tomllib.loads(added)["links"][0]["bandwidth"] == 25e9
    edited = text.replace(f'identity = "{identity()}"', 'identity = ""').replace("count = 1\n", "count = 16\n")
    path.write_text(f"{edited}\n{added}\n", encoding="utf-8")
    by_hand, by_command = planned(path, capsys), planned(told, capsys)
    assert by_hand["strategy"]["mesh"] == by_command["strategy"]["mesh"]
    assert len({worker["host"] for worker in by_hand["strategy"]["workers"]}) == 16


def test_a_slower_network_makes_the_predicted_step_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gradients of 8 layers of 4 MB cross it, whatever the plan hides of them."""
    steps = []
    for bandwidth in (25e9, 25e6):
        path = tmp_path / "cluster.toml"
        write_cluster(hosts_like(machine(processor(cores=1)), 4, network=bandwidth), path)
        steps.append(planned(path, capsys)["candidates"][0]["step"])
    assert steps[1] > steps[0]


def test_what_was_not_measured_comes_from_the_catalogue() -> None:
    """An H100's host has 400 GB/s of network there; the rates stay those that were measured."""
    host = accelerators(hosts=1).hosts[0]
    device = replace(host.device, name="NVIDIA H100 80GB HBM3", price=0.0, power=0.0)
    one = replace(accelerators(hosts=1), hosts=(replace(host, device=device),), links=accelerators().links[:1])
    many = hosts_like(one, 64)
    assert many.num_devices == 512
    assert many.hosts[0].device.matrix_rates == device.matrix_rates
    assert many.hosts[0].device.price > 0
    assert many.links[-1].tier == "network"
    assert many.links[-1].bandwidth >= 10 * GB


def test_a_network_that_nobody_knows_has_to_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.toml"
    assert run_command(["hardware", "--save", str(path), "--hosts", "4"]) == 2
    assert "--network 25GB/s" in capsys.readouterr().err
    assert run_command(["hardware", "--save", str(path), "--hosts", "4", "--network", "fast"]) == 2
    assert "'fast' is no rate" in capsys.readouterr().err
    assert run_command(["hardware", "--save", str(path), "--network", "25GB/s"]) == 2
    assert not path.exists()


def test_what_was_measured_elsewhere_cannot_be_tried_here(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    for kept, written in (("", "another machine"), (identity(), identity())):
        write_cluster(replace(machine(), identity=written), path)
        assert named_cluster(str(path)).identity == kept


def test_what_is_asked_besides_speed_holds_on_this_machine_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing takes less memory; a deadline that is not kept, and money that nobody knows, are refused."""
    saved = tmp_path / "plan.toml"
    options = ["--minimize", "memory", "--save", str(saved), "--json", str(tmp_path / "graph.json")]
    assert run_command(["plan", *options]) == 0
    chosen, *others = json.loads(capsys.readouterr().out)["plan"]["candidates"]
    assert chosen["memory"] == min(item["memory"] for item in [*others, chosen])
    assert chosen["step"] > min(item["step"] for item in others)
    for options, said in (
        (["--deadline", "1h", "--tokens", "1T"], "no plan keeps the deadline: the fastest takes"),
        (["--minimize", "cost"], "--minimize cost: the price of "),
        (["--budget", "5k", "--steps", "10"], "--budget: the price of "),
    ):
        assert run_command(["plan", *options, "--save", str(saved), str(tmp_path / "graph.json")]) == 7
        assert said in capsys.readouterr().err
