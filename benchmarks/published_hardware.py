"""Names that publications give accelerators, as the catalogue's."""

import re
from functools import cache

from meshwright.errors import UsageError
from meshwright.hardware import Catalog, CatalogEntry, catalog

# Tried in order; what a cloud calls its hosts comes last.
_NAMES = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"gb300", "gb300"), (r"gb200", "gb200"), (r"b300", "b300"), (r"b[12]00", "b200"), (r"gh\s?-?200", "gh200"),
        (r"h200", "h200"), (r"h20\b", "h20"), (r"h[18]00.*(pcie|nvl)", "h100-pcie"),
        (r"h100.*(hbm2e|500\s*w)", "h100-500w"), (r"h[18]00", "h100"), (r"a[18]00.*pcie", "a100-pcie"),
        (r"a[18]00.*40", "a100-40"), (r"a[18]00", "a100"), (r"l40s", "l40s"), (r"l40", "l40"), (r"\bl4\b", "l4"),
        (r"6000.*ada", "l40"), (r"a6000|rtx\s*6000", "a6000"), (r"\ba40\b", "a40"), (r"\ba30\b", "a30"),
        (r"\ba10", "a10g"), (r"v100.*16", "v100-16"), (r"v100", "v100"), (r"\bt4\b", "t4"), (r"p100", "p100"),
        (r"4090", "rtx4090"), (r"3090", "rtx3090"), (r"5090", "rtx5090"), (r"2080", "rtx2080ti"),
        (r"mi355", "mi355x"), (r"mi350", "mi350x"), (r"mi325", "mi325x"), (r"mi30\d", "mi300x"),
        (r"mi250x", "mi250x"), (r"mi2\d\d", "mi250"), (r"gaudi\s*-?3|hl-?325", "gaudi3"), (r"gaudi|hpu", "gaudi2"),
        (r"trainium\s*-?3|trn3", "trainium3"), (r"trainium\s*-?2|trn2", "trainium2"), (r"trainium|trn1", "trainium1"),
        (r"v7x|ironwood", "tpu-v7x"), (r"v6e|trillium", "tpu-v6e"), (r"v5p", "tpu-v5p"),
        (r"v5e|v5-?lite|tpu.*v5\b", "tpu-v5e"), (r"tpu.*v4|\bv4-\d", "tpu-v4"),
        (r"\bp6", "b200"), (r"\bp5en?\b", "h200"), (r"\bp5", "h100"), (r"\bp4de", "a100"), (r"\bp4d", "a100-40"),
        (r"\bp3dn", "v100"), (r"\bp3\b", "v100-16"), (r"\bg4dn", "t4"), (r"\bg5\b", "a10g"), (r"\bg6e\b", "l40s"),
        (r"\bg6\b", "l4"),
    )
)  # fmt: skip
# DGX-1 has 4 ports of 100 Gb/s for 8 devices and DGX-2 8 for 16; since then a device has one, of 200 or 400 Gb/s.
_DGX_NETWORK = {
    "v100": 6.25e9, "v100-16": 6.25e9, "a100": 25e9, "a100-40": 25e9, "h100": 50e9, "h200": 50e9, "b200": 50e9,
}  # fmt: skip
_KINDS = re.compile(r"\s+(?:and|with)\s+|[+&;]", re.IGNORECASE)


def own_network(hardware: str) -> float:
    """What a device's network card moves in the hosts that its maker sells with it (B/s); 0: not such a host."""
    if "dgx" not in hardware.lower():
        return 0.0
    return _DGX_NETWORK.get(device_name(hardware), 0.0)


def device_name(hardware: str) -> str:
    """The catalogue's short name of a published one; of several kinds that train together, the slowest one's.

    Raises:
        UsageError: the catalogue has no such device.
    """
    found = [name for part in _KINDS.split(hardware) if (name := _named(part))]
    if found:
        return min(found, key=lambda name: _fastest_product(known_devices().devices[name]))
    known = known_devices().devices
    raise UsageError(f"no device {hardware!r} in the catalogue", alternatives=[f"known: {', '.join(known)}"])


@cache
def known_devices() -> Catalog:
    """The catalogue."""
    return catalog()


def _named(part: str) -> str:
    known = known_devices().devices
    exact = (name for name, entry in known.items() if part.strip().lower() in (name, entry.name.lower()))
    told = (name for pattern, name in _NAMES if pattern.search(part) and name in known)
    return next(exact, "") or next(told, "")


def _fastest_product(entry: CatalogEntry) -> float:
    return max(entry.peaks[dtype].value for dtype in ("bfloat16", "float16", "float32") if dtype in entry.peaks)
