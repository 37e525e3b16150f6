"""Every setting resolved: default < file < command line, and where each value came from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from meshwright.cost import Allowance
from meshwright.documents import from_mapping, read_toml, to_mapping
from meshwright.errors import DocumentError, UsageError, suggestion
from meshwright.launch import ONE_HOST, PLANNING_LIMIT, Hosts, Origin, Value, parse_rendezvous
from meshwright.plan import Goal, Objective, Pins
from meshwright.units import Bytes, Seconds, parse_bytes, parse_count, parse_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """What a configuration file may say; None leaves a setting to its default.

    Args:
        set: pinned choices, a table.
        allow: permitted departures from the script's mathematics.
        memory: most that all workers of a host may use together, as text with its unit.
        steps: how many steps the script takes.
        minimize: time, cost, energy or memory.
        tokens: that the run trains on, as text with its letter.
        deadline: the run may take so long, as text with its unit.
        budget: the run may cost so much ($), as text with its letter.
        cluster: hardware to plan for: a file, or a short form.
        plan: file of the plan to follow.
        output: folder in which runs lie.
        reference: steps of the script as it is written, before the run.
        planning_limit: longest time for planning (s).
        nodes: hosts that run together.
        rendezvous: where they meet, HOST:PORT.
        node_rank: this host's number.
        fresh: whether this machine is measured again.
    """

    set: Pins = Pins()
    allow: tuple[str, ...] | None = None
    memory: str | None = None
    steps: int | None = None
    minimize: Objective | None = None
    tokens: str | None = None
    deadline: str | None = None
    budget: str | None = None
    cluster: str | None = None
    plan: Path | None = None
    output: Path | None = None
    reference: int | None = None
    planning_limit: float | None = None
    nodes: int | None = None
    rendezvous: str | None = None
    node_rank: int | None = None
    fresh: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a verb works with.

    Args:
        goal: what is asked of a plan.
        cluster: the hardware, a file or a short form; None: this machine.
        plan: file of the plan to follow; None: make one.
        output: folder in which runs lie.
        reference: steps of the script as it is written, before the run.
        planning_limit: longest time for planning (s).
        hosts: hosts that run together.
        fresh: whether this machine is measured again.
        values: every setting with its origin.
    """

    goal: Goal
    cluster: str | None
    plan: Path | None
    output: Path
    reference: int
    planning_limit: Seconds
    hosts: Hosts
    fresh: bool
    values: Mapping[str, Value]


# Enough to see that the curves are one; the script's own code between them runs in planning, too.
REFERENCE_STEPS = 3

DEFAULTS: Mapping[str, Any] = {
    "allow": (),
    "memory": "",
    "steps": 0,
    "minimize": "time",
    "tokens": "",
    "deadline": "",
    "budget": "",
    "cluster": None,
    "plan": None,
    "output": Path("outputs"),
    "reference": REFERENCE_STEPS,
    "planning_limit": PLANNING_LIMIT,
    "nodes": 1,
    "rendezvous": "",
    "node_rank": 0,
    "fresh": False,
}


def resolve(*options: Any, **more: Any) -> Settings:
    """Settings from the command line and the configuration file that it may name.

    Args:
        options: groups of options of the command line.
        more: single options.

    Raises:
        UsageError: an unknown key or a value that means nothing; with the nearest legal one.
    """
    given = {field.name: getattr(group, field.name) for group in options for field in fields(group)} | more
    config, pinned = given.pop("config", None), given.pop("set", ())
    file = read_toml(Configuration, config) if config is not None else Configuration()
    merged = merge(given, file=file)
    raw = {name: value for name, (value, _) in merged.items()}
    pins, origins = merge_pins(file.set, parse_pins(pinned))
    goal = Goal(
        pins=pins,
        allow=check_allowances(raw["allow"]),
        memory_limit=parse_memory(raw["memory"]),
        steps=_steps(*merged["steps"]),
        minimize=check_objective(raw["minimize"]),
        tokens=_number("--tokens", raw["tokens"], parse_count),
        deadline=_number("--deadline", raw["deadline"], parse_seconds),
        budget=_number("--budget", raw["budget"], parse_count),
        origins=origins,
    )
    check_length(goal)
    check_plan_is_alone(raw["plan"], goal=goal)
    return Settings(
        goal=goal,
        cluster=raw["cluster"],
        plan=raw["plan"],
        output=raw["output"],
        reference=raw["reference"],
        planning_limit=raw["planning_limit"],
        hosts=check_hosts(raw["nodes"], rendezvous=raw["rendezvous"], rank=raw["node_rank"]),
        fresh=raw["fresh"],
        values={name: Value(value=_plain(value), origin=origin) for name, (value, origin) in merged.items()},
    )


def merge(given: Mapping[str, Any], *, file: Configuration) -> dict[str, tuple[Any, Origin]]:
    """Each setting's value and origin: default < file < command line; what was not given does not count."""
    merged: dict[str, tuple[Any, Origin]] = {name: (value, "default") for name, value in DEFAULTS.items()}
    for name in DEFAULTS:
        written, typed = getattr(file, name), given.get(name)
        if written is not None:
            merged[name] = (written, "file")
        if typed is not None and typed != () and typed is not False:
            merged[name] = (typed, "command line")
    return merged


def check_plan_is_alone(plan: Path | None, *, goal: Goal) -> None:
    """Refuses wishes for a plan beside a plan that is made already.

    Raises:
        UsageError: there are both.
    """
    if plan is not None and (goal.origins or goal.allow or goal.memory_limit):
        raise UsageError(
            f"--plan {plan} together with --set, --allow or --memory",
            cause="those steer the making of a plan, and this one is made",
            alternatives=["leave out --plan", "leave out the others", "edit the plan's file"],
            command="meshwright plan SCRIPT",
        )


# The names that torch and its papers have for the axes.
AXES = {
    "dp_replicate": "data",
    "dp_shard": "shard",
    "tp": "tensor",
    "cp": "context",
    "ep": "expert",
    "pp": "pipeline",
}


def parse_pins(texts: Sequence[str]) -> Pins:
    """The choices pinned by `--set KEY=VALUE`; a mesh axis may be called as torch calls it.

    Raises:
        UsageError: no such key, with the nearest; or a value that it cannot have.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (_, equals, value) in zip(texts, pairs, strict=True):
        if not equals or not value:
            raise UsageError(
                f"--set {text}: this is not KEY=VALUE",
                alternatives=[f"keys: {', '.join(field.name for field in fields(Pins))}"],
                command="meshwright run --set workers=2 SCRIPT",
            )
    mapping: dict[str, Any] = {}
    for key, _, value in pairs:
        name = AXES.get(key, key)
        if mapping.setdefault(name, value) != value:
            raise UsageError(
                f"--set {name} twice: {mapping[name]} and {value}",
                cause="a choice is pinned to one value",
                alternatives=[f"--set {name}={mapping[name]}", f"--set {name}={value}"],
                command=f"meshwright plan --set {name}={value} SCRIPT",
            )
    if "bucket_size" in mapping:
        mapping["bucket_size"] = _bytes("--set bucket_size", mapping["bucket_size"])
    try:
        return from_mapping(Pins, mapping, where="--set")
    except DocumentError as error:
        example = "meshwright plan --set workers=2 SCRIPT"
        raise UsageError(error.fact, cause=error.cause, alternatives=error.alternatives, command=example) from None


def merge_pins(written: Pins, typed: Pins) -> tuple[Pins, dict[str, str]]:
    """Pins of the file and of the command line, which goes first; and where each comes from."""
    file, line = to_mapping(written), to_mapping(typed)
    origins = dict.fromkeys(file, "file") | dict.fromkeys(line, "command line")
    return from_mapping(Pins, file | line, where="pins"), origins


def check_allowances(names: Sequence[str]) -> tuple[Allowance, ...]:
    """The departures from the script's mathematics that the user permits.

    Raises:
        UsageError: there is no such departure; with the nearest.
    """
    legal: tuple[Allowance, ...] = get_args(Allowance)
    for name in names:
        if name not in legal:
            raise UsageError(
                f"--allow {name}: there is nothing of that name to allow",
                cause=suggestion(name, legal),
                alternatives=[f"what can be allowed: {', '.join(legal)}"],
            )
    return tuple(name for name in legal if name in names)


def check_objective(name: str) -> Objective:
    """What is made small.

    Raises:
        UsageError: there is no such objective; with the nearest.
    """
    legal: tuple[Objective, ...] = get_args(Objective)
    for objective in legal:
        if name == objective:
            return objective
    raise UsageError(
        f"--minimize {name}: there is no such objective",
        cause=suggestion(name, legal),
        alternatives=[f"what can be made small: {', '.join(legal)}"],
    )


def check_length(goal: Goal) -> None:
    """Refuses limits on a whole run whose length nobody said, and a length that is said twice.

    Raises:
        UsageError: there is a deadline or a budget, and neither tokens nor steps; or there are both.
    """
    if goal.tokens and goal.steps:
        raise UsageError(
            f"--tokens {goal.tokens:g} together with --steps {goal.steps}",
            cause="each says how long the run is, for a step has the tokens of the script's batch",
            alternatives=["leave out --steps", "leave out --tokens"],
            command=f"meshwright plan --tokens {goal.tokens:g} SCRIPT",
        )
    if (goal.deadline or goal.budget) and not (goal.tokens or goal.steps):
        raise UsageError(
            f"{'--deadline' if goal.deadline else '--budget'} without --tokens or --steps",
            cause="a limit on the whole run needs its length",
            alternatives=["--tokens 1T", "--steps 100000"],
            command="meshwright plan SCRIPT --tokens 1T --deadline 30d",
        )


def parse_memory(text: str) -> Bytes:
    """A memory limit (B); 0 where none was given.

    Raises:
        UsageError: no size.
    """
    return _bytes("--memory", text) if text else 0


def check_hosts(count: int, *, rendezvous: str, rank: int) -> Hosts:
    """The hosts of a run.

    Raises:
        UsageError: the three options do not belong together.
    """
    if count == 1 and not rendezvous:
        return ONE_HOST
    if not rendezvous:
        raise UsageError(
            f"--nodes {count} without --rendezvous",
            cause="the hosts have to know where to meet",
            command=f"meshwright run --nodes {count} --rendezvous HOST:PORT --node-rank 0 SCRIPT",
        )
    if not 0 <= rank < count:
        raise UsageError(
            f"--node-rank {rank} with --nodes {count}",
            alternatives=[f"a number from 0 to {count - 1}, one for each host"],
        )
    address, port = parse_rendezvous(rendezvous)
    return Hosts(count=count, rank=rank, address=address, port=port)


def _steps(number: int, origin: Origin) -> int:
    """The length of the run; 0 where nobody says it."""
    if number < 1 and origin != "default":
        raise UsageError(
            f"--steps {number}", cause="a run takes at least one step", alternatives=["leave out --steps"],
            command="meshwright plan --steps 100000 SCRIPT",
        )  # fmt: skip
    return number


def _number(option: str, text: str, parse: Callable[[str], float]) -> float:
    """What was written of an option; 0 where nothing was."""
    if not text:
        return 0.0
    try:
        number = parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", command="meshwright plan --help") from None
    if number <= 0:
        raise UsageError(
            f"{option} {text}", cause="it has to be more than nothing", alternatives=[f"leave out {option}"],
            command="meshwright plan --help",
        )  # fmt: skip
    return number


def _bytes(option: str, text: str) -> Bytes:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _plain(value: Any) -> bool | int | float | str | tuple[str, ...]:
    if value is None:
        return "none"
    return str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
