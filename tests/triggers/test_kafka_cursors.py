"""Where members go on: in topics made anew, behind markers of transactions; with both client libraries."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode

import pytest
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.contract.groups import Revoked
from millstream.triggers import kafka_member
from millstream.triggers.kafka_client import written_for
from tests.brokers.kafka import WITHIN_S, Kafka
from tests.triggers.kafka_rig import Opened, numbered, offsets, opened, produce
from tests.triggers.test_kafka import committed

pytestmark = [
    pytest.mark.broker,
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

ANEW = "topic was made anew, reading it from its oldest offsets"


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def make_anew(kafka: Kafka, topic: str, after_s: float, count: int) -> None:
    """Delete a topic and create one of its name, with so many records."""
    kafka.admin.delete_topics([topic])[topic].result(WITHIN_S)
    await asyncio.sleep(after_s)
    async with asyncio.timeout(30.0):
        while True:
            try:
                kafka.create_topic(1, topic)
                break
            except KafkaException:  # the old one is still being deleted
                await asyncio.sleep(0.05)
    produce(kafka.bootstrap, topic, 0, [b"new %d" % n for n in range(count)])


async def read_on(it: Opened, seen: set[bytes], wanted: set[bytes]) -> None:
    """Read until all that is wanted was seen, or the membership is over, as the supervisor would."""
    (lease,) = await it.assigned(count=1)
    reader = await it.source.reader([lease])
    async with asyncio.TaskGroup() as group:
        change = group.create_task(it.source.change())
        while not wanted <= seen:
            try:
                for record in (await reader.read(100, 0.2)).records:
                    seen.add(b64decode(json.loads(record.event)["value"]))
            except SourceUnavailable:
                await asyncio.sleep(0.1)
        change.cancel()


async def read_all(kafka: Kafka, topic: str, client: str, wanted: set[bytes], seen: set[bytes]) -> None:
    async with asyncio.timeout(60.0):
        while not wanted <= seen:
            try:
                async with opened(kafka.bootstrap, topic, client=client) as it:
                    await read_on(it, seen, wanted)
            except* (SourceUnavailable, Refused):
                await asyncio.sleep(0.2)


async def over(it: Opened) -> None:
    """Give up what is revoked until the membership is over."""
    with pytest.raises((SourceUnavailable, Refused)):
        while True:
            if isinstance(change := await it.change(), Revoked):
                change.done()


@pytest.mark.parametrize(("after_s", "count"), [(0.0, 15), (0.0, 3), (1.0, 15), (1.0, 10), (3.0, 15)])
async def test_a_topic_made_anew_while_it_is_read_is_read_from_its_oldest_offset(
    kafka: Kafka, client: str, after_s: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_member, "IDENTITY_S", 0.5)
    topic, seen = kafka.create_topic(1), set[bytes]()
    produce(kafka.bootstrap, topic, 0, numbered(0, 10))
    wanted = {b"new %d" % n for n in range(count)}
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        await it.commit(lease, await it.read(reader, 10))
        await committed(kafka, f"g-{topic}", topic, {0: 10})
        await make_anew(kafka, topic, after_s, count)
        await over(it)
    await read_all(kafka, topic, client, wanted, seen)
    assert seen == wanted


@pytest.mark.parametrize(("of", "first"), [("another", 0), ("this", 5), ("none", 5)])
async def test_a_cursor_of_an_earlier_topic_is_not_taken_for_one_of_this(
    kafka: Kafka, client: str, of: str, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    topic = kafka.create_topic(1)
    found = kafka.admin.describe_topics(TopicCollection([topic]))[topic].result(WITHIN_S)
    ours = str(found.topic_id).replace("+", "-").replace("/", "_")
    mark = {"another": written_for("AAAAAAAAAAAAAAAAAAAAAA"), "this": written_for(ours), "none": ""}[of]
    other = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"g-{topic}", "log_level": 0})
    other.commit(offsets=[TopicPartition(topic, 0, 5, metadata=mark)], asynchronous=False)
    other.close()
    produce(kafka.bootstrap, topic, 0, numbered(0, 10))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 10 - first)
    assert offsets(records) == [*range(first, 10)]
    assert (ANEW in caplog.text) == (of == "another")


async def test_markers_of_transactions_are_passed_once_all_before_them_is_done_with(
    kafka: Kafka, client: str
) -> None:
    topic, group = kafka.create_topic(1), ""
    kafka.transaction(topic, numbered(0, 3), commit=True)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        group = f"g-{topic}"
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        records = await it.read(reader, 3)
        await it.commit(lease, records[:2])
        await committed(kafka, group, topic, {0: 2})
        await it.commit(lease, records)
        await committed(kafka, group, topic, {0: 4})
        kafka.transaction(topic, [b"thrown away"], commit=False)
        await committed(kafka, group, topic, {0: 6})
        kafka.transaction(topic, [b"4"], commit=True)
        (last,) = await it.read(reader, 1)
        assert offsets([last]) == [6]
        await asyncio.sleep(2 * kafka_member.COMMIT_S)  # in which a wrong commit would go out
        assert kafka.committed(group, topic) == {0: 6}
        await it.commit(lease, [last])
        await committed(kafka, group, topic, {0: 8})
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        produce(kafka.bootstrap, topic, 0, [b"next"])
        assert offsets(await it.read(await it.source.reader([lease]), 1)) == [8]
