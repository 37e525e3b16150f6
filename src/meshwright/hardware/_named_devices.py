"""Devices that a cluster file names instead of describing: `device = "h100"`, or a table with `catalogue = "h100"`.

What else stands in the table counts instead of the catalogue's figure, such as a price of one's own.
"""

from collections.abc import Mapping
from typing import Any

from meshwright.documents import to_mapping
from meshwright.hardware._catalog import catalog, catalog_entry, device_of

_NAME = "catalogue"


def with_named_devices(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a cluster with the catalogue's devices in the place of their names.

    Raises:
        UsageError: the catalogue has no such device; names the nearest.
    """
    hosts = document.get("hosts")
    if not isinstance(hosts, list):
        return dict(document)
    return {**document, "hosts": [_described(host) if isinstance(host, dict) else host for host in hosts]}


def _described(host: Mapping[str, Any]) -> dict[str, Any]:
    device = host.get("device")
    own = {_NAME: device} if isinstance(device, str) else device
    if not isinstance(own, dict) or not isinstance(own.get(_NAME), str):
        return dict(host)
    known = catalog()
    figures = to_mapping(device_of(known, catalog_entry(known, own[_NAME])))
    return {**host, "device": figures | {key: value for key, value in own.items() if key != _NAME}}
