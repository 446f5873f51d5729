"""`millstream run --isolation docker`: messages go through containers, and a killed daemon leaves none."""

from __future__ import annotations

import docker
import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, send, wait_until
from tests.daemon.test_daemon import app

pytestmark = pytest.mark.broker

OPTIONS = ("--isolation", "docker")


def containers(address: str) -> set[str]:
    """Ids of those that daemons made, the ended ones, too."""
    client = docker.DockerClient(address)
    try:
        return {one.id for one in client.containers.list(all=True, filters={"label": "millstream.data"})}
    finally:
        client.close()


def test_messages_go_through_containers_over_a_kill_which_leaves_none(
    daemon: RunningDaemon, ministack: Ministack, docker_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    url = ministack.queue(VisibilityTimeout="10")
    send(ministack, url, 0, 50)
    daemon.start(app(url, 0.2), *OPTIONS)
    wait_until("some are handled", lambda: len(daemon.handled()) >= 10)
    left = containers(docker_engine)
    assert left
    daemon.kill()
    send(ministack, url, 50, 20)
    daemon.start(app(url), *OPTIONS)
    wait_until("all are handled", lambda: len(daemon.handled()) == 70)
    assert not containers(docker_engine) & left
    assert daemon.stop() == 0
    assert not containers(docker_engine)
    assert "memory per" in daemon.text()
