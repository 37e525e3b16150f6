"""What torch's agent is asked to start on this host."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meshwright.launch._hosts import ONE_HOST, Hosts

AgentTask = Literal["run", "measure", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentJob:
    """One agent's work.

    Args:
        script: the user's script.
        arguments: its own arguments.
        folder: the run's.
        hosts: all hosts.
        patience: how long hosts wait for one another, planning included (s).
        task: `run` starts workers; `measure` measures the link between the hosts if host 0 wants it, and `skip` on
            host 0 says that it does not.
    """

    script: str
    arguments: tuple[str, ...] = ()
    folder: Path
    hosts: Hosts = ONE_HOST
    patience: int = 900
    task: AgentTask = "run"
