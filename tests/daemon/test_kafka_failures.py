"""What daemons give up on Kafka, in a topic for failures: records that failed, records without a schema."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.brokers.kafka import Kafka
from tests.brokers.schema_registry import Kept, SchemaRegistry
from tests.daemon.conftest import WITHIN_S, RunningDaemon, wait_until
from tests.daemon.conftest import daemon as daemon
from tests.triggers.schema_samples import ORDER, avro, framed

pytestmark = pytest.mark.broker

APP = """
import base64, json
from millstream import App, Destination, Kafka

app = App("failures")


@app.function()
def handle(event, context):
    for records in event["records"].values():
        for record in records:
            print("took", base64.b64decode(record["value"]).decode())
            if b"bad" in base64.b64decode(record["value"]):
                raise ValueError("bad")


app.map(
    Kafka("{topic}", bootstrap_servers="{servers}", starting_position="TRIM_HORIZON", {options}),
    to=handle,
    on_failure=Destination("kafka", "kafka://{servers}/{failed}", client="{client}"),
)
"""


def messages(servers: str, topic: str, count: int) -> list[tuple[bytes | None, dict[str, Any]]]:
    """Keys and documents of a topic's only partition, once there are so many."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "none", "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[tuple[bytes | None, dict[str, Any]]] = []
        while len(found) < count:
            message = consumer.poll(WITHIN_S)
            assert message is not None
            assert message.error() is None
            found.append((message.key(), json.loads(message.value() or b"")))
        return found
    finally:
        consumer.close()


def put(servers: str, topic: str, *records: tuple[bytes | None, bytes]) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "enable.idempotence": True})
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(WITHIN_S) == 0


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_each_record_that_failed_is_one_message_under_its_own_key(
    kafka: Kafka, daemon: RunningDaemon, client: str
) -> None:
    topic, failed = kafka.create_topic(1), kafka.create_topic(1)
    put(kafka.bootstrap, topic, (b"a", b"bad 0"), (None, b"bad 1"), (b"c", b"bad 2"))
    options = f'client="{client}", maximum_retry_attempts=0'
    names = {"topic": topic, "failed": failed, "servers": kafka.bootstrap, "client": client}
    daemon.start(APP.format(options=options, **names))
    found = messages(kafka.bootstrap, failed, 3)
    assert [key for key, _ in found] == [b"a", None, b"c"]
    for number, (_, document) in enumerate(found):
        assert document["requestContext"]["condition"] == "RetriesExhausted"
        assert document["requestContext"]["functionArn"].endswith(":function:handle:$LATEST")
        assert document["KafkaBatchInfo"]["batchSize"] == 1
        assert document["KafkaBatchInfo"]["recordInfo"]["offset"] == str(number)
        (record,) = document["payload"]["records"][f"{topic}-0"]
        assert base64.b64decode(record["value"]) == b"bad %d" % number
    wait_until("all are committed", lambda: kafka.committed(group_of(daemon), topic) == {0: 3})


def group_of(daemon: RunningDaemon) -> str:
    found = daemon.mappings()
    assert found is not None
    uuid: str = found[0]["row"]["uuid"]
    return uuid


def test_records_without_a_schema_are_given_up_and_the_others_taken_in_order(
    kafka: Kafka, schema_registry: SchemaRegistry, daemon: RunningDaemon
) -> None:
    schema_registry.add(1, Kept("AVRO", json.dumps(ORDER)))
    topic, failed = kafka.create_topic(1), kafka.create_topic(1)
    orders = [framed(1, avro(ORDER, {"id": number, "note": None})) for number in range(4)]
    values = [orders[0], b"no schema", orders[1], framed(9, b"x"), orders[2], orders[3]]
    put(kafka.bootstrap, topic, *[(b"k", value) for value in values])
    config = {"schema_registry_uri": schema_registry.url, "schema_validation_configs": ["VALUE"]}
    names = {"topic": topic, "failed": failed, "servers": kafka.bootstrap, "client": "auto"}
    daemon.start(APP.format(options=f"schema_registry_config={config!r}", **names))
    documents = [document for _, document in messages(kafka.bootstrap, failed, 2)]
    assert [
        (one["requestContext"]["condition"], one["KafkaBatchInfo"]["recordInfo"]["offset"])
        for one in documents
    ] == [("DESERIALIZATION_ERROR", "1"), ("SCHEMA_NOT_FOUND", "3")]
    assert (
        documents[0]["payload"]["records"][f"{topic}-0"][0]["value"] == base64.b64encode(values[1]).decode()
    )
    wait_until("all are committed", lambda: kafka.committed(group_of(daemon), topic) == {0: 6})
    log = (daemon.data / "logs" / "handle.log").read_text()
    took = [line.split("took ", 1)[1] for line in log.splitlines() if "took " in line]
    assert [json.loads(text)["id"] for text in took] == [0, 1, 2, 3]
