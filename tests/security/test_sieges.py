"""A function that takes what it can get of the host's kernel harms no other one, as SECURITY.md says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.security.drivers import driver
from tests.security.outcomes import BOUNDED, HOST, POSSIBLE, UNTRIED, WITH_CGROUP, column
from tests.security.sieges import SIEGES, Siege
from tests.security.test_deeds import need_a_cgroup
from tests.security.victim import pair

__all__ = ["driver"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attempts are on Linux"),
]


@pytest.mark.parametrize("siege", SIEGES, ids=lambda siege: siege.name)
async def test_no_other_function_notices(driver: str, tmp_path: Path, siege: Siege) -> None:
    declared = siege.outcomes[column(driver)]
    if declared in (UNTRIED, HOST):
        pytest.skip("it would harm this host, or is the host's own affair")
    if declared == WITH_CGROUP:
        need_a_cgroup()
        declared = BOUNDED
    async with pair(driver, tmp_path, siege.code, siege.needs, **siege.spec) as it:
        during = await it.unharmed_during()
        await it.frozen()
        unharmed = during and await it.unharmed()
    assert (BOUNDED if unharmed else POSSIBLE) == declared
