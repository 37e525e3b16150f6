"""Runs whose messages wait for their hosts: on large networks, and where memory is nearly full, and when.

An allocator that runs full gives memory back and waits for the device before it goes on, so that the host no longer
launches ahead. On large networks nothing about links or devices foretells which runs wait; limits of a few rules and
what a message waits are fitted to the runs, and to others where an error is given for what was left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshwright.units import Seconds

if TYPE_CHECKING:
    from meshwright.cost.accelerator._calibration import Habits

_NEVER = 2**62


@dataclass(frozen=True, kw_only=True, slots=True)
class Stalls:
    """When a framework's messages wait; a pipeline of two stages or more, but for `hosts`.

    Args:
        hosts: from so many hosts on, always.
        many_hosts: from so many on, with `ranks` data ranks or more, or with `examples` or more in a micro-batch of a
            model of `parameters` or more.
        ranks: see `many_hosts`.
        examples: see `many_hosts`.
        parameters: see `many_hosts`.
        whole_hosts: from so many on, where several data ranks keep everything whole, with `rounds` micro-batches.
        rounds: see `whole_hosts`.
        wide: tensor degree from which on a pipeline waits on `wide_hosts`.
        wide_hosts: see `wide`.
        full: share of the device's memory, asked for by the fullest worker, from which on everything waits, on any
            number of hosts.
    """

    hosts: int = _NEVER
    many_hosts: int = _NEVER
    ranks: int = _NEVER
    examples: float = float(_NEVER)
    parameters: float = 0.0
    whole_hosts: int = _NEVER
    rounds: int = _NEVER
    wide: int = _NEVER
    wide_hosts: int = _NEVER
    full: float = float(_NEVER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Messages:
    """What the messages of a run depend on.

    Args:
        tp: tensor degree.
        pp: pipeline degree.
        ranks: data ranks.
        sharded: whether something is kept in shards over them.
        examples: of a micro-batch.
        micro_batches: of a data rank in a step.
        parameters: of the model.
        domain: devices that a host's link joins.
        num_hosts: in use.
        fullness: share of the device's memory that the fullest worker asks for.
    """

    tp: int
    pp: int
    ranks: int
    sharded: bool
    examples: float
    micro_batches: int
    parameters: float
    domain: int
    num_hosts: int
    fullness: float = 0.0


def stalls(when: Stalls, run: Messages) -> bool:
    """Whether a run's messages wait."""
    if run.num_hosts >= when.hosts or run.fullness >= when.full:
        return True
    if run.pp == 1:
        return False
    if run.num_hosts >= when.many_hosts and run.sharded:
        large = run.examples >= when.examples and run.parameters >= when.parameters
        if large or when.ranks <= run.ranks < 4 * when.ranks:
            return True
    whole = run.ranks > 1 and not run.sharded and run.micro_batches >= when.rounds
    if whole and run.num_hosts >= when.whole_hosts:
        return True
    return run.tp >= when.wide and run.num_hosts >= when.wide_hosts


def layers_wait(run: Messages) -> bool:
    """Whether a stalled run waits in every micro-batch, and not for its gradients alone.

    Without a pipeline, collectives of tensor-parallel groups wider than two hosts are longer than what the others of a
    micro-batch wait for: they leave the host ahead, which the memory of such runs shows.
    """
    return run.pp > 1 or run.tp <= 2 * run.domain


def stall_time(habits: "Habits", run: Messages) -> Seconds:
    """Messages that block the host: four per micro-batch on a stage between two others, two on one of a pair (s).

    Without a pipeline four as well, if any, and two for the gradients.
    """
    if run.pp == 1:
        return habits.stall * (2 + (4 * run.micro_batches if layers_wait(run) else 0))
    messages = 2 if run.pp == 2 else 4
    return habits.stall * (messages * run.micro_batches + 2 * max(0, run.pp - 2))
