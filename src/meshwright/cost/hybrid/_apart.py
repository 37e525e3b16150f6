"""Islands of a layout: where they stand, and what their meetings add to a step.

A worker meets those that hold the same parts on other islands. All workers of a host do so at the same time: what they
share is in the prices of accelerators' groups; of processes' it is counted here.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np

from meshwright.cost._communication import moved_share
from meshwright.cost._lossy import coding_time, routes, sent_along
from meshwright.cost._meetings import Meetings, met
from meshwright.cost.hybrid._exchanges import Exchanges
from meshwright.cost.hybrid._layout import Layout
from meshwright.graph import Graph
from meshwright.units import Bytes, BytesPerSecond, Seconds

_FLOAT: Bytes = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where islands stand.

    Args:
        is_tight: whether each is on as few hosts as its workers need.
        flows: most workers of the first one that share a host.
    """

    is_tight: bool
    flows: int


def standing(layout: Layout, *, places: int) -> Standing:
    """Where a layout's islands stand, hosts filled one after another.

    Args:
        places: workers that a host has room for.
    """
    mesh = layout.mesh
    width = mesh.dp_replicate // layout.islands
    inner = (("tp", mesh.tp), ("cp", mesh.cp), ("dp_shard", mesh.dp_shard), ("dp_replicate", width), ("pp", mesh.pp))
    return _standing(
        tuple((degree, layout.stride(axis)) for axis, degree in inner),  # type: ignore[arg-type]
        islands=layout.islands, apart=width * layout.stride("dp_replicate"), places=places,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _standing(axes: tuple[tuple[int, int], ...], *, islands: int, apart: int, places: int) -> Standing:
    own = np.zeros(1, dtype=np.intp)
    for degree, stride in axes:
        own = np.add.outer(np.arange(degree) * stride, own).ravel()
    hosts = (own[None, :] + apart * np.arange(islands)[:, None]) // places
    least = ceil(len(own) / places)
    tight = all(len(np.unique(row)) == least for row in hosts)
    return Standing(is_tight=tight, flows=int(np.unique(hosts[0], return_counts=True)[1].max()))


def meetings(
    layout: Layout, graph: Graph, exchanges: Exchanges, *, elements: float, step: Seconds, copying: BytesPerSecond
) -> Meetings:
    """What meetings add to a step of one worker; nothing where every step is everybody's.

    Args:
        graph: the whole one.
        exchanges: prices of collectives.
        elements: trained ones that the worker has.
        step: without meetings (s).
        copying: bytes that a worker reads and writes over time when parameters are copied (B/s).
    """
    updates, choice = layout.exchange.updates, layout.exchange.compression
    if updates is None:
        return Meetings()
    size = _FLOAT * elements
    degree, stride = updates.islands, layout.mesh.dp_replicate // updates.islands * layout.stride("dp_replicate")
    if updates.kind != "local":
        way = exchanges.time(layout, "send", degree, stride, size)
        return met(updates, size=size, sent=size, duration=way, step=step, busy=0.0, copying=copying)
    listed = (("all_reduce", 1.0),) if choice is None else routes(choice, graph, group=degree)
    flows = standing(layout, places=exchanges.places(layout)).flows if exchanges.on_processors else 1
    latency = exchanges.routed(layout, listed, degree, stride, 0.0)
    duration = latency * updates.fragments + flows * (exchanges.routed(layout, listed, degree, stride, size) - latency)
    passes = 0.0 if choice is None else coding_time(choice, size, group=degree, copying=copying)
    sent = size * sent_along(listed, group=degree) / moved_share("all_reduce", degree)
    return met(updates, size=size, sent=sent, duration=duration + passes, step=step, busy=0.0, copying=copying)
