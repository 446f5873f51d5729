"""The Docker engine of the tests of the docker driver: the one that answers, or one that is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.smoke.engine import engine


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[str]:
    """A running engine, as DOCKER_HOST names it; its containers have no network."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the docker driver needs Linux")
    with engine(bridge=False) as address:
        yield address
