"""The drivers that come with the project, each by the kit that all must pass."""

from __future__ import annotations

import sys

import docker
import pytest

from tests.contract.sandbox_kit import Offers, SandboxKit
from tests.contract.sandbox_walls_kit import SandboxWallsKit
from tests.runtime.bash_image import root
from tests.runtime.echo import echo
from tests.runtime.shell_programs import layer, shell

__all__ = ["echo", "layer", "root", "shell"]

pytestmark = pytest.mark.broker

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@needs_linux
class TestBwrap(SandboxKit, SandboxWallsKit):
    driver = "bwrap"


@needs_linux
class TestDocker(SandboxKit, SandboxWallsKit):
    driver = "docker"

    @pytest.fixture(autouse=True)
    def _engine(self, docker_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", docker_engine)

    def end_sandbox(self, pid: int) -> None:
        """By the engine: a container's user is not to be signalled by any other than root."""
        client = docker.from_env()
        try:
            for container in client.containers.list(filters={"label": "millstream.data"}):
                if any(pid == int(found[1]) for found in container.top()["Processes"]):
                    container.kill()
        finally:
            client.close()


class TestProcess(SandboxKit, SandboxWallsKit):
    driver = "process"
    offers = Offers(supervised=False, own_root=False, bounded_tmp=False, closed_network=False, images=False)
