"""What a file gained since it was last looked at."""

from pathlib import Path
from typing import BinaryIO


class LogTail:
    """Reads a growing file piece by piece; the file need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def read(self) -> bytes:
        """New bytes; none while the file is not there."""
        if self._file is None:
            if not self._path.is_file():
                return b""
            self._file = self._path.open("rb")
        return self._file.read()

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LineTail:
    """Whole lines that a growing text file gained; a line that is half written waits for its end."""

    def __init__(self, path: Path) -> None:
        self._tail = LogTail(path)
        self._rest = b""

    def read(self) -> list[str]:
        """New lines, without their ends."""
        *lines, self._rest = (self._rest + self._tail.read()).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        """Lets go of the file."""
        self._tail.close()
