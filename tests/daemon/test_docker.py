"""`millstream run --isolation docker`: messages go through containers, and a killed daemon leaves none."""

from __future__ import annotations

import docker
import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, send, wait_until
from tests.daemon.test_daemon import app

pytestmark = pytest.mark.broker

OURS = {"label": "millstream.data"}
OPTIONS = ("--isolation", "docker")


def containers(address: str, *, ended: bool = True) -> set[str]:
    """Ids of those that daemons made, perhaps without the ended ones."""
    client = docker.DockerClient(address)
    try:
        return {one.id for one in client.containers.list(all=ended, filters=OURS)}
    finally:
        client.close()


def test_messages_go_through_containers_over_a_kill_which_leaves_none(
    daemon: RunningDaemon, ministack: Ministack, docker_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    others = containers(docker_engine)  # of other tests, which may have failed
    url = ministack.queue(VisibilityTimeout="10")
    send(ministack, url, 0, 50)
    recorded = f"file://{daemon.folder}/done.jsonl"
    daemon.start(app(url, 0.2).replace("to=handle", f"to=handle, on_success={recorded!r}"), *OPTIONS)
    wait_until("some are handled", lambda: len(daemon.recorded()) >= 10)
    daemon.kill()
    wait_until("they end by themselves", lambda: not containers(docker_engine, ended=False) - others)
    left = containers(docker_engine) - others
    assert left
    send(ministack, url, 50, 20)
    daemon.start(None, *OPTIONS)
    wait_until("all are handled", lambda: len(daemon.recorded()) == 70)
    wait_until("what was left is removed", lambda: not containers(docker_engine) & left)
    assert daemon.stop() == 0
    assert not containers(docker_engine) - others
    assert "memory per" in daemon.text()
