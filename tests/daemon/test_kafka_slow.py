"""Kafka through whole daemons whose functions are slow: membership is kept, memory is bounded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.brokers.kafka import Kafka
from tests.daemon import topics
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.test_kafka import MakeDaemon, make_daemon

__all__ = ["make_daemon"]

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

BUFFER_MB = 16
HELD_MB = 200
"""What a daemon may hold with that buffer: 70 MB of its own, 16 MB and 4 x 4 MB of the client, the rest
for the objects around it. Of the backlog, which is 400 MB as events, it could hold no half."""


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_a_function_may_run_longer_than_three_sessions(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon, client: str
) -> None:
    topic, daemon, taken = kafka.create_topic(1), make_daemon("d"), topics.Taken(tmp_path)
    topics.put(kafka.bootstrap, topic, range(20), 1)
    options = f'batch_size=10, session_timeout=1, client="{client}"'
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, takes_s=3.5))
    wait_until("both batches are taken", lambda: len(taken.numbers()) >= 20)
    wait_until("they are committed", lambda: kafka.committed(group(daemon), topic) == {0: 20})
    assert daemon.stop() == 0
    assert taken.numbers() == [*range(20)]
    assert "WARNING" not in daemon.text()


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_a_large_backlog_is_not_held_in_memory(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon, client: str
) -> None:
    topic, daemon = kafka.create_topic(4), make_daemon("d")
    fill(kafka.bootstrap, topic, 300_000, 1024)
    options = f'batch_size=10, client="{client}"'
    app = topics.app(tmp_path, kafka.bootstrap, topic, options, takes_s=0.05)
    daemon.start(app, "--buffer-mb", str(BUFFER_MB))
    daemon.started()
    wait_until("it has worked a while", lambda: daemon.status()["delivered"] >= 4000)
    assert peak_mb(daemon) < HELD_MB
    assert daemon.stop() == 0


def group(daemon: RunningDaemon) -> str:
    found = daemon.mappings()
    assert found is not None
    uuid: str = found[0]["row"]["uuid"]
    return uuid


def fill(servers: str, topic: str, count: int, size: int) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "linger.ms": 20})
    value = b"x" * size
    for _ in range(count):
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(topics.FLUSHED_WITHIN_S) == 0


def peak_mb(daemon: RunningDaemon) -> float:
    """The most that the daemon's own process has held."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (kb,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kb) / 1024
