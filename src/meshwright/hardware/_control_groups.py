"""How much memory the control groups around this process allow, of either version of them (Linux; elsewhere: nothing).

Containers and limited jobs see the whole host's memory; the limit of a group around them is what ends them. Files that
were read stay in memory until it is needed for something else, so they do not count as used.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshwright.units import Bytes

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Version 1 writes 2^63 - 1 rounded down to pages where there is no limit.
_NO_LIMIT: Bytes = 2**60


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryGroup:
    """A control group with a limit.

    Args:
        limit: most memory of its processes together (B).
        used: by them now, without files that can be read again (B).
    """

    limit: Bytes
    used: Bytes


def memory_groups(own: Path = _OWN, root: Path = _ROOT) -> tuple[MemoryGroup, ...]:
    """The limited groups around this process, innermost first.

    Args:
        own: names the groups that the process is in.
        root: where groups are mounted.
    """
    return tuple(group for folder, version in _folders(own, root) if (group := _group(folder, version)) is not None)


def _folders(own: Path, root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the groups that account for this process's memory, with their version, up to the root."""
    try:
        entries = [line.split(":", 2) for line in own.read_text(encoding="ascii").splitlines()]
    except OSError:
        return
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        version = 2 if controllers == "" else 1
        top = root if version == 2 else root / "memory"
        folder = top / path.lstrip("/")
        # in a container the path is the host's, and what is mounted here is the group itself
        while folder != top:
            yield folder, version
            folder = folder.parent
        yield top, version


def _group(folder: Path, version: int) -> MemoryGroup | None:
    limit_name, used_name, files = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    }[version]
    try:
        limit = (folder / limit_name).read_text(encoding="ascii").strip()
        used = int((folder / used_name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if not limit.isdigit() or int(limit) >= _NO_LIMIT:
        return None
    return MemoryGroup(limit=int(limit), used=max(0, used - sum(_statistics(folder).get(name, 0) for name in files)))


def _statistics(folder: Path) -> dict[str, Bytes]:
    found: dict[str, Bytes] = {}
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            found[name] = int(value)
    return found
