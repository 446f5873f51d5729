"""The endpoint goes away in the middle and comes back: the daemon backs off, resumes, loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.ministack import Ministack
from tests.brokers.relay import Relay
from tests.daemon.conftest import RunningDaemon, send
from tests.daemon.test_daemon import app

pytestmark = pytest.mark.broker


async def until(what: str, holds: Callable[[], object]) -> None:
    """Wait for what another process does, and let the relay work meanwhile."""
    async with asyncio.timeout(60.0):
        while not holds():
            await asyncio.sleep(0.05)
    assert holds(), what


async def test_an_outage_in_the_middle_loses_nothing(tmp_path: Path, ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="5")
    send(ministack, url, 0, 300)
    async with Relay(ministack.endpoint_url) as relay:
        daemon = RunningDaemon(tmp_path, relay.url)
        try:
            daemon.start(app(url, 0.05))
            await until("it works", lambda: len(daemon.handled()) >= 50)
            await relay.cut()
            await until("it says so", lambda: "source unavailable" in daemon.text())
            await relay.restore()
            await until("all are handled", lambda: len(daemon.handled()) == 300)
            await until("it says so, too", lambda: "source available again" in daemon.text())
            duplicates = sum(daemon.handled().values()) - 300
            assert duplicates <= 5 * 10
        finally:
            if daemon.process is not None:
                daemon.kill()


async def test_the_outage_of_one_source_is_not_felt_by_another_mapping(
    tmp_path: Path, ministack: Ministack
) -> None:
    """Both mappings are on one endpoint here, so the outage is a queue that is deleted."""
    gone, kept = ministack.queue(VisibilityTimeout="5"), ministack.queue(VisibilityTimeout="5")
    daemon = RunningDaemon(tmp_path, ministack.endpoint_url)
    try:
        daemon.start(app(kept) + f"\napp.map(Sqs({gone!r}), to=handle)\n")
        await until("both run", lambda: daemon.text().count("state=Enabled") == 2)
        ministack.client("sqs").delete_queue(QueueUrl=gone)
        await until("the other one has a problem", lambda: "mapping refused, tried again" in daemon.text())
        send(ministack, kept, 0, 50)
        await until("all are handled", lambda: len(daemon.handled()) == 50)
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
