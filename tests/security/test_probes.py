"""Short attempts from inside a function of each driver come to what SECURITY.md says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.security.arena import arena
from tests.security.drivers import driver
from tests.security.outcomes import DENIED, HOST, POSSIBLE, Probe, column
from tests.security.probes import PROBES

__all__ = ["driver"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attempts are on Linux"),
]


async def test_every_attempt_comes_to_what_is_declared(driver: str, tmp_path: Path) -> None:
    async with arena(driver, tmp_path) as answer:
        said = await answer(PROBES)
    wrong = {probe.name: said[probe.name] for probe in PROBES if not as_declared(probe, said, driver)}
    assert wrong == {}


def as_declared(probe: Probe, said: dict[str, str], driver: str) -> bool:
    came_through = said[probe.name] == "yes"
    match probe.outcomes[column(driver)]:
        case outcome if outcome == POSSIBLE:
            return came_through or probe.unless()
        case outcome if outcome == HOST:
            return True
        case outcome:
            return outcome == DENIED and not came_through
