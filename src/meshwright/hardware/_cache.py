"""Where measurements of this machine are kept between runs."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from meshwright.hardware._identity import identity_digest

CACHE_VARIABLE = "MESHWRIGHT_CACHE"


def cache_folder() -> Path:
    """The user's cache folder for Meshwright; `MESHWRIGHT_CACHE` names another."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else user_cache_path("meshwright")


def calibration_path(identity: str) -> Path:
    """The file with the measured cluster of a machine; it need not exist."""
    return cache_folder() / f"cluster-{identity_digest(identity)}.toml"


def outcomes_path(identity: str) -> Path:
    """The file beside it with what runs on that machine took, one JSON line each; it need not exist."""
    return cache_folder() / f"outcomes-{identity_digest(identity)}.jsonl"
