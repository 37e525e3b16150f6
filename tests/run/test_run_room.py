"""Memory for heats beside the jobs of the planning processes."""

from dataclasses import replace

import planning_builders as build
from meshwright.plan import Goal, Pins, shortlist
from meshwright.run._planning import Room

MB = 10**6


def test_a_heat_needs_room_beside_the_jobs_of_all_processes() -> None:
    """Two processes of 200 MB context and 64 MB of parameters each; one worker of 392 MB takes 192 besides."""
    cluster = build.machine(build.processor(memory=800 * MB))
    item = shortlist(build.multilayer(layers=16), cluster, Goal(pins=Pins(workers=1))).candidates[0]
    own = item.prediction.memory.peak - cluster.hosts[0].device.context
    needed = 2 * (200 * MB + 64 * MB) + own
    for memory, holds in ((needed, True), (needed - 1, False)):
        host = replace(cluster.hosts[0], device=replace(cluster.hosts[0].device, memory=memory))
        room = Room(cluster=replace(cluster, hosts=(host,)), size=64 * MB, processes=2)
        assert room.holds(item) is holds
