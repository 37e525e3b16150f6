"""Prices and power of devices: who weighs them has to know those of every kind, for an unknown one would be free."""

from collections.abc import Callable
from dataclasses import replace

from meshwright.errors import PlanError
from meshwright.hardware import Cluster, Device
from meshwright.plan._goal import Goal
from meshwright.plan._layouts import training_hosts


def with_common_figures(cluster: Cluster) -> Cluster:
    """The cluster with prices and power of all its kinds of devices or of none: sums of some would look like sums."""
    devices = [host.device for host in training_hosts(cluster)]
    priced, powered = all(one.price for one in devices), all(one.power for one in devices)
    hosts = tuple(
        replace(
            host,
            device=replace(
                host.device,
                price=host.device.price if priced else 0.0,
                power=host.device.power if powered else 0.0,
            ),
        )
        for host in cluster.hosts
    )
    return replace(cluster, hosts=hosts)


def check_figures_of(cluster: Cluster, goal: Goal) -> None:
    """Refuses to weigh money or energy where they are not known.

    Raises:
        PlanError: names the devices, and where their figure may be said.
    """
    asked: tuple[tuple[str, bool, str, str, Callable[[Device], float]], ...] = (
        ("--minimize cost", goal.minimize == "cost", "price", "$ per device and hour", lambda one: one.price),
        ("--budget", goal.budget > 0, "price", "$ per device and hour", lambda one: one.price),
        ("--minimize energy", goal.minimize == "energy", "power", "W of a device", lambda one: one.power),
    )
    for option, is_asked, figure, unit, of in asked:
        unknown = [host.device.name for host in training_hosts(cluster) if not of(host.device)]
        if is_asked and unknown:
            raise PlanError(
                f"{option}: the {figure} of {' and '.join(dict.fromkeys(unknown))} is not known",
                cause=f"{cluster.name} says none ({unit}), and what is not known would count as free",
                alternatives=[
                    f'a cluster file that says it: device = {{ catalogue = "h100", {figure} = … }}, '
                    f"or {figure} = … in [hosts.device] of a measured one",
                    f"leave out {option}",
                ],
                command="meshwright hardware --save cluster.toml, then meshwright plan --cluster cluster.toml SCRIPT",
            )
