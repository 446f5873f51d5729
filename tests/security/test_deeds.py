"""Attempts that take a function of their own come to what SECURITY.md says, on each driver."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from millstream.runtime.sandboxes.hierarchies import find_groups
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.deeds import DEEDS, Deed
from tests.security.drivers import driver
from tests.security.outcomes import BOUNDED, UNTRIED, WITH_CGROUP, column

__all__ = ["driver", "runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attempts are on Linux"),
]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
async def test_an_attempt_comes_to_what_is_declared(runtime: MakeRuntime, driver: str, deed: Deed) -> None:
    declared = deed.outcomes[column(driver)]
    if declared == UNTRIED:
        pytest.skip("it would harm this host")
    if declared == WITH_CGROUP:
        need_a_cgroup()
        declared = BOUNDED
    spec: dict[str, Any] = {"timeout_s": 20.0, **deed.spec}
    async with runtime(driver, deed.code, **spec) as it:
        outcome = await deed.judge(it)
    assert (outcome if deed.after is None else deed.after()) == declared


def need_a_cgroup(controller: str = "memory") -> None:
    groups = find_groups()
    if groups is None or controller not in groups.controllers:
        pytest.skip(f"this host lets us make no cgroup for {controller}")
    groups.close()
