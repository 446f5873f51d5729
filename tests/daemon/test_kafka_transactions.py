"""Exactly once from Kafka to Kafka, over kills of the daemon and takeovers by another."""

from __future__ import annotations

import base64
import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.brokers.kafka import Kafka
from tests.daemon import topics
from tests.daemon.conftest import RunningDaemon, wait_until
from tests.daemon.test_kafka import MakeDaemon, make_daemon

__all__ = ["make_daemon"]

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

APP = """
import base64
import json
from millstream import App, Kafka

app = App("test")


@app.function(timeout=30)
def double(event, context):
    found = [record for part in event["records"].values() for record in part]
    numbers = [2 * int(base64.b64decode(record["value"])) for record in found]
    values = [base64.b64encode(str(number).encode()).decode() for number in numbers]
    return {{"records": [{{"topic": "{out}", "value": value}} for value in values]}}


app.map(
    Kafka(
        "{topic}",
        bootstrap_servers="{servers}",
        starting_position="TRIM_HORIZON",
        transactional_id="doubles",
        session_timeout=3,
        batch_size=100,
        consumer_group_id="doubles-of-{topic}",
    ),
    to=double,
)
"""


class Output:
    """What the output topic holds, as a consumer with read_committed sees it."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        self.numbers: list[int] = []
        settings = {"bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False}
        more = {"isolation.level": "read_committed", "fetch.queue.backoff.ms": 2, "log_level": 0}
        self._consumer = Consumer({**settings, **more})
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])

    def read(self) -> list[int]:
        for message in self._consumer.consume(100_000, 0.2):
            assert message.error() is None
            self.numbers.append(int(message.value() or b""))
        return self.numbers

    def close(self) -> None:
        self._consumer.close()


def reads(daemon: RunningDaemon) -> bool:
    return bool(daemon.status()["partitions"])


def test_over_twenty_kills_every_input_has_exactly_one_output(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    count, partitions, kills = 40_000, 4, 20
    topic, out = kafka.create_topic(partitions), kafka.create_topic(2)
    topics.put(kafka.bootstrap, topic, range(count), partitions)
    daemons = [make_daemon("a"), make_daemon("b")]  # they take over from one another
    for daemon in daemons:
        daemon.start(APP.format(topic=topic, out=out, servers=kafka.bootstrap))
    output, chance = Output(kafka.bootstrap, out, 2), random.Random(11)
    for nth in range(kills):
        least = count * (nth + 1) // (kills + 2)
        wait_until(f"progress before kill {nth}", lambda least=least: len(output.read()) >= least)
        reading = wait_until("one reads", lambda: [it for it in daemons if it.mappings() and reads(it)])
        time.sleep(chance.uniform(0.0, 0.3))  # the kill comes at any moment; not a wait for anything
        killed = chance.choice(reading)
        killed.kill()
        killed.start()
    wait_until("all are there", lambda: len(set(output.read())) == count, 120.0)
    for daemon in daemons:
        daemon.started()
        assert daemon.stop() == 0
    found = Counter(output.read())
    output.close()
    assert found == Counter(2 * number for number in range(count))


def test_an_answer_that_cannot_be_published_is_retried_and_given_up(
    kafka: Kafka, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    topic, out, daemon = kafka.create_topic(1), kafka.create_topic(1), make_daemon("d")
    topics.put(kafka.bootstrap, topic, range(3), 1)
    failed = tmp_path / "failed.jsonl"
    answer = f'return {{"records": [{{"topic": "{out}", "value": "not base64!"}}]}}'
    more = f'on_failure="{failed.as_uri()}",'
    options = 'transactional_id="t", maximum_retry_attempts=0'
    daemon.start(topics.app(tmp_path, kafka.bootstrap, topic, options, body=answer, more=more))
    wait_until("it is given up", failed.exists)
    group = (daemon.mappings() or [{}])[0]["row"]["uuid"]
    wait_until("the offset is committed", lambda: kafka.committed(group, topic) == {0: 3})
    assert "wanted {" in daemon.text()
    assert base64.b64encode(b"2").decode() in json.loads(failed.read_text())["payload"]
    assert daemon.stop() == 0
