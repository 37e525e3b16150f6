"""What every test may ask for."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from starter import Starter
from workers import Pools

# How long an example takes says nothing where other work shares the cores. The same examples run for everybody, so
# that a change is judged by what it changes; `--hypothesis-profile explore` draws new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What collecting has loaded stays: collecting garbage no longer looks through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def workers() -> Iterator[Pools]:
    """`workers(n).run(function, *args)` calls a function in n gloo processes and gives what each returned."""
    pools = Pools()
    yield pools
    pools.stop()


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """`starter.python` takes the interpreter's place in a command: the process is forked from one with torch loaded."""
    found = Starter()
    yield found
    found.stop()
