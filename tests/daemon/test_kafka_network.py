"""Kafka through whole daemons over a network that resets, refuses and stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.brokers.kafka import Kafka, running
from tests.brokers.kafka_server import Listener
from tests.brokers.ports import free_port
from tests.brokers.relay import Relay
from tests.daemon import topics
from tests.daemon.conftest import RunningDaemon
from tests.daemon.test_kafka import MakeDaemon, make_daemon, out_of_order
from tests.daemon.test_outage import until

__all__ = ["make_daemon"]

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

PARTITIONS = 2
BATCH = 20
TAKES_S = 0.1
NEW = 40 * BATCH
SECONDS_UNCOMMITTED = 1.5
DISTURBANCES = 3


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, Listener]]:
    """A broker that tells the clients of one listener to go through a relay, which is not there yet."""
    listener = Listener("RELAYED", free_port(), "PLAINTEXT", relayed_by=free_port())
    with running(Kafka(tmp_path_factory.mktemp("kafka"), [listener])) as broker:
        yield broker, listener


def outages(daemon: RunningDaemon) -> int:
    """How often the daemon has said that its source is away."""
    return daemon.text().count("source unavailable")


def reason(daemon: RunningDaemon) -> str:
    """Why the mapping does not work now; empty if it does."""
    found: str = daemon.status()["state_reason"]
    return found


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
async def test_nothing_is_lost_when_the_network_resets_refuses_or_stalls(
    relayed: tuple[Kafka, Listener], tmp_path: Path, make_daemon: MakeDaemon, client: str
) -> None:
    broker, listener = relayed
    relay = Relay(f"kafka://127.0.0.1:{listener.port}", listener.relayed_by or 0)
    topic, daemon, taken = broker.create_topic(PARTITIONS), make_daemon("d"), topics.Taken(tmp_path)
    count = 0
    options = f'batch_size={BATCH}, session_timeout=6, client="{client}"'

    async def gets_on() -> None:
        """A quarter of the new records is taken; the others are on their way when this returns."""
        nonlocal count
        topics.put(broker.bootstrap, topic, range(count, count + NEW), PARTITIONS)
        count += NEW
        await until("it gets on", lambda: len(taken.distinct()) >= count - NEW * 3 // 4)

    async with relay:
        daemon.start(topics.app(tmp_path, urlsplit(relay.url).netloc, topic, options, takes_s=TAKES_S))
        await gets_on()
        await relay.cut()
        await relay.restore()
        await gets_on()
        await until("it is over", lambda: not reason(daemon))
        assert outages(daemon) <= 1
        before = outages(daemon)
        await relay.cut()
        await until("the refusal is said", lambda: reason(daemon).startswith("retrying: "))
        await relay.restore()
        await gets_on()
        await until("it is back", lambda: not reason(daemon))
        assert outages(daemon) == before + 1
        relay.stall()
        await until("the stall is said", lambda: reason(daemon).startswith("retrying: "))
        relay.resume()
        await until("all are taken", lambda: taken.distinct() == set(range(count)))
        await until("it is back again", lambda: not reason(daemon))
        assert outages(daemon) == before + 2
        assert daemon.status()["state"] == "Enabled"
        assert await asyncio.get_running_loop().run_in_executor(None, daemon.stop) == 0
    found = taken.numbers()
    assert out_of_order(found, PARTITIONS) == {}
    in_flight = PARTITIONS * BATCH * (1 + SECONDS_UNCOMMITTED / TAKES_S)
    assert len(found) - count <= DISTURBANCES * in_flight
