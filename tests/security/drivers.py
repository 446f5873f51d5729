"""The drivers that are attacked."""

from __future__ import annotations

import pytest

DRIVERS = ["bwrap", "docker", "process"]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; with an engine that DOCKER_HOST names."""
    name: str = request.param
    if name == "docker":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("docker_engine"))
    return name
