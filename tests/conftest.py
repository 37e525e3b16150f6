"""What every test may ask for."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from workers import Pools

# How long an example takes says nothing where other work shares the cores.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def workers() -> Iterator[Pools]:
    """`workers(n).run(function, *args)` calls a function in n gloo processes and gives what each returned."""
    pools = Pools()
    yield pools
    pools.stop()
