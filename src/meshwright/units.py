"""Units of every quantity inside Meshwright, and how they are printed.

Inside: seconds, bytes, FLOP, B/s, FLOP/s, watts, joules, dollars; never a scaled unit. A value is scaled only when
it is printed, here.
"""

import re

Seconds = float
Bytes = int
FLOP = float
BytesPerSecond = float
FLOPPerSecond = float
Watts = float
Joules = float
Dollars = float

KIB: Bytes = 2**10
MIB: Bytes = 2**20
GIB: Bytes = 2**30
TIB: Bytes = 2**40

_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(us|µs|ms|s|min|h|d|weeks?|w)?\s*")
_DURATION_FACTORS = {
    None: 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0,
    "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_COUNT = re.compile(r"\s*\$?\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kMBT])?\s*")
_COUNT_FACTORS = {None: 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

_BINARY = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
_DECIMAL = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_RATE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kMGT]?)(B|bit)/s\s*")
_DECIMAL_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)?\s*")
_SIZE_FACTORS = {
    None: 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


def format_bytes(size: float) -> str:
    """Bytes in the largest binary unit that leaves at least one unit: `1610612736` → `1.50 GiB`."""
    for name, factor in _BINARY:
        if abs(size) >= factor:
            return f"{size / factor:.2f} {name}"
    return f"{size:.0f} B"


def format_seconds(duration: Seconds) -> str:
    """Seconds with three digits in the unit a person would choose: `0.0123` → `12.3 ms`, `7261` → `2 h 01 min`."""
    if abs(duration) < 1e-3:
        return f"{duration * 1e6:.3g} µs"
    if abs(duration) < 1:
        return f"{duration * 1e3:.3g} ms"
    if abs(duration) < 120:
        return f"{duration:.3g} s"
    if abs(duration) < 7200:
        return f"{duration // 60:.0f} min {duration % 60:02.0f} s"
    return f"{duration // 3600:.0f} h {duration % 3600 // 60:02.0f} min"


def format_days(duration: Seconds) -> str:
    """How long a whole run takes: in days from two of them up, else as `format_seconds` does: `7e6` → `81 days`."""
    return f"{duration / 86400:.3g} days" if duration >= 2 * 86400 else format_seconds(duration)


def format_scaled(value: float, unit: str) -> str:
    """A value with a decimal prefix before its unit: `(1.2e11, "FLOP/s")` → `120 GFLOP/s`."""
    for prefix, factor in _DECIMAL:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def parse_bytes(text: str) -> Bytes:
    """The number of bytes a person wrote: `"4GiB"`, `"512 MB"`, `"1048576"`.

    Raises:
        ValueError: the text is not a size; names the units that are understood.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        units = ", ".join(unit for unit in _SIZE_FACTORS if unit)
        raise ValueError(f"{text!r} is not a size; write a number and one of {units}, for example 4GiB")
    return int(float(match[1]) * _SIZE_FACTORS[match[2]])


def parse_rate(text: str) -> BytesPerSecond:
    """The rate a person wrote: `"25GB/s"`, `"100Gbit/s"` (B/s).

    Raises:
        ValueError: the text is no rate; names the units that are understood.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no rate; write a number and a unit, for example 25GB/s or 100Gbit/s")
    return float(match[1]) * _DECIMAL_FACTORS[match[2]] / (8 if match[3] == "bit" else 1)


def parse_seconds(text: str) -> Seconds:
    """The duration a person wrote: `"3d"`, `"12 h"`, `"90"`, `"5us"`.

    Raises:
        ValueError: the text is no duration; names the units that are understood.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and one of us, ms, s, min, h, d, w, for example 3d")
    return float(match[1]) * _DURATION_FACTORS[match[2]]


def parse_count(text: str) -> float:
    """The number a person wrote: `"1T"`, `"300B"`, `"2.5M"`, `"15e12"`, `"$40k"`.

    Raises:
        ValueError: the text is no number; names the letters that are understood.
    """
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number; write digits and one of k, M, B, T, for example 1T")
    return float(match[1]) * _COUNT_FACTORS[match[2]]
