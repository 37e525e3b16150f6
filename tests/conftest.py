"""What every test may ask for."""

from collections.abc import Iterator

import pytest

from workers import Pools


@pytest.fixture(scope="session")
def workers() -> Iterator[Pools]:
    """`workers(n).run(function, *args)` calls a function in n gloo processes and gives what each returned."""
    pools = Pools()
    yield pools
    pools.stop()
