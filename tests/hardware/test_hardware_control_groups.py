"""Memory limits of control groups, read from folders that look like the kernel's."""

from pathlib import Path

from meshwright.hardware import MemoryGroup, memory_groups

MB = 10**6


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_second_version_is_read_up_to_the_root(tmp_path: Path) -> None:
    """The job may use 500 MB and its processes use 200, of which 80 are files; its slice has no limit, the root 900."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("0::/slice/job\n")
    _write(
        root / "slice/job",
        memory__max=str(500 * MB),
        memory__current=str(200 * MB),
        memory__stat=f"anon {120 * MB}\ninactive_file {50 * MB}\nactive_file {30 * MB}",
    )
    _write(root / "slice", memory__max="max", memory__current=str(300 * MB))
    _write(root, memory__max=str(900 * MB), memory__current=str(700 * MB))
    assert memory_groups(own, root) == (
        MemoryGroup(limit=500 * MB, used=120 * MB),
        MemoryGroup(limit=900 * MB, used=700 * MB),
    )


def test_the_first_version_is_read_too(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("9:name=systemd:/\n4:cpu,memory:/job\n0::/\n")
    _write(root / "memory/job", memory__limit_in_bytes=str(600 * MB), memory__usage_in_bytes=str(100 * MB))
    _write(root / "memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes=str(300 * MB))
    assert memory_groups(own, root) == (MemoryGroup(limit=600 * MB, used=100 * MB),)


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """The path is the host's, and is not there inside."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("0::/docker/0123\n")
    _write(root, memory__max=str(400 * MB), memory__current=str(100 * MB))
    assert memory_groups(own, root) == (MemoryGroup(limit=400 * MB, used=100 * MB),)


def test_where_there_are_no_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_groups(tmp_path / "none", tmp_path) == ()
