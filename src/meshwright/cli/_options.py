"""The options that several verbs share; None and empty mean: not given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=())]
Many = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, n_tokens=1, accepts_keys=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GoalOptions:
    """What is asked of a plan."""

    set: Many = ()
    """Pin a choice: KEY=VALUE, for example workers=2. Again for another."""

    allow: Many = ()
    """Permit a departure from the script's mathematics: precision, compression, staleness, quantization, sparsity."""

    memory: str | None = None
    """Most that all workers of a host may use together, for example 4GiB."""

    cluster: Path | None = None
    """Plan for the hardware in this file instead of this machine."""

    config: Path | None = None
    """A TOML file with any of these settings; the command line goes before it."""

    planning_limit: float | None = None
    """Longest time for planning, in seconds."""

    fresh: Flag = False
    """Measure this machine again."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to follow, and where to write."""

    plan: Path | None = None
    """Follow the plan in this file instead of making one."""

    output: Path | None = None
    """The folder in which runs lie."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """On how many hosts to run."""

    nodes: int | None = None
    """Hosts that run together; start the same command on each."""

    rendezvous: str | None = None
    """Where they meet: HOST:PORT, the first host and a free port of it."""

    node_rank: int | None = None
    """This host's number, from 0; 0 is the one that HOST names."""
