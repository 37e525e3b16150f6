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
    """Most that an accelerator's worker may use, or all workers on a host's processor together: for example 4GiB."""

    cluster: str | None = None
    """Plan for other hardware: a file, or a short form: h100:8x64 (64 hosts of 8), h100:8x2+a100:8x4 (two kinds)."""

    config: Path | None = None
    """A TOML file with any of these settings; the command line goes before it."""

    planning_limit: float | None = None
    """Longest time for planning, in seconds."""

    fresh: Flag = False
    """Measure this machine again."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AimOptions:
    """What a plan makes small, and how long the run is."""

    steps: int | None = None
    """How many steps the run will take; decides whether compiling pays."""

    minimize: str | None = None
    """What is made small: time, cost, energy or memory."""

    tokens: str | None = None
    """Tokens that the run trains on, for example 1T; then the plan says what the whole run takes."""

    deadline: str | None = None
    """Longest that the run may take, for example 3d; needs tokens or steps."""

    budget: str | None = None
    """Most that the run may cost in dollars, for example 200k; needs tokens or steps."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to follow, and where to write."""

    plan: Path | None = None
    """Follow the plan in this file instead of making one."""

    output: Path | None = None
    """The folder in which runs lie."""

    reference: int | None = None
    """Before the run, at most so many steps of the script as it is written, for about a second (3); the report draws
    their losses. The script goes on in the planning process meanwhile, and saves nothing there; 0: none."""


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
