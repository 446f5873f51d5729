"""A member of a consumer group on Apache Kafka, with both client libraries."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import LeaseLost, Refused, SourceUnavailable
from millstream.contract.streams import At, Oldest
from millstream.kafka.access import Access
from millstream.triggers import kafka_client
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_client import GroupSettings, new_client
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_source import KafkaSource
from tests.brokers.kafka import Kafka
from tests.triggers.kafka_rig import Opened, numbered, offsets, opened, produce

pytestmark = [
    pytest.mark.broker,
    # kafka-python leaves sockets of connections that were refused to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def committed(kafka: Kafka, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Wait until a group has these offsets, while its member goes on: commits go out once a second."""
    async with asyncio.timeout(20.0):
        while kafka.committed(group, topic) != offsets:
            await asyncio.sleep(0)


async def test_each_partition_is_read_in_order_from_its_oldest_record(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(2)
    for partition in range(2):
        produce(kafka.bootstrap, topic, partition, numbered(100 * partition, 50))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        for partition, lease in enumerate(await it.assigned(count=2)):
            records = await it.read(await it.source.reader([lease]), 50)
            assert lease.partition == f"{topic}-{partition}"
            assert {record.partition for record in records} == {lease.partition}
            assert offsets(records) == [*range(50)]


async def test_an_event_is_that_of_the_self_managed_kafka_source(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    headers = [("trace", bytes([118, 220, 0, 127, 128])), ("trace", b"again"), ("none", None)]
    at = 1_545_084_650_987
    produce(kafka.bootstrap, topic, 0, [b"Hello"], key=b"abc", headers=headers, timestamp=at)
    produce(kafka.bootstrap, topic, 0, [None], timestamp=at + 1)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 2)
        event = it.trigger.envelope(records)
    first = {
        "topic": topic,
        "partition": 0,
        "offset": 0,
        "timestamp": at,
        "timestampType": "CREATE_TIME",
        "key": "YWJj",
        "value": "SGVsbG8=",
        "headers": [
            {"trace": [118, -36, 0, 127, -128]},
            {"trace": [97, 103, 97, 105, 110]},
            {"none": []},
        ],
    }
    keyless = {name: value for name, value in first.items() if name != "key"}
    second = {**keyless, "offset": 1, "timestamp": at + 1, "value": None, "headers": []}
    servers = kafka.bootstrap
    wanted = {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": servers,
        "records": {f"{topic}-0": [first, second]},
    }
    assert event.decode() == json.dumps(wanted, separators=(",", ":"))
    assert [record.arrived_at for record in records] == [at / 1000, (at + 1) / 1000]


async def test_a_new_member_goes_on_behind_what_was_committed(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 30))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 20)
        await it.commit(lease, records[:12])
        await committed(kafka, f"g-{topic}", topic, {0: 12})
    async with opened(kafka.bootstrap, topic, At(0.0), client=client) as it:
        (lease,) = await it.assigned(count=1)
        assert offsets(await it.read(await it.source.reader([lease]), 18)) == [*range(12, 30)]


async def test_the_groups_offsets_are_where_every_kafka_tool_sees_them(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 5))
    async with opened(kafka.bootstrap, topic, group="seen-by-tools", client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 5)
        await it.commit(lease, records)
        await committed(kafka, "seen-by-tools", topic, {0: 5})


async def test_what_is_resolved_last_is_committed_as_the_member_leaves(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 5))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        await it.commit(lease, await it.read(await it.source.reader([lease]), 5))
    assert kafka.committed(f"g-{topic}", topic) == {0: 5}


async def test_a_new_reader_begins_behind_the_last_checkpoint(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 20))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        records = await it.read(reader, 15)
        await it.commit(lease, records[:5])
        await reader.aclose()
        again = await it.read(await it.source.reader([lease]), 15)
        assert offsets(again) == [*range(5, 20)]


async def test_a_reader_without_records_waits_and_brings_an_empty_page(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        began_at = time.monotonic()
        assert (await reader.read(10, 0.3)).records == ()
        assert 0.25 < time.monotonic() - began_at < 2.0
        produce(kafka.bootstrap, topic, 0, numbered(0, 1))
        assert offsets(await it.read(reader, 1)) == [0]


async def test_a_second_member_takes_partitions_over_without_loss(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(2)
    for partition in range(2):
        produce(kafka.bootstrap, topic, partition, numbered(0, 10))
    async with opened(kafka.bootstrap, topic, client=client) as first:
        leases = {lease.partition: lease for lease in await first.assigned(count=2)}
        read = {p: await first.read(await first.source.reader([of]), 10) for p, of in leases.items()}
        async with opened(kafka.bootstrap, topic, client=client) as second:
            revoked = await first.revoked()
            (moved,) = revoked.partitions
            await first.commit(leases[moved], read[moved][:4])
            revoked.done()
            (lease,) = await second.assigned(count=1)
            assert lease.partition == moved
            assert offsets(await second.read(await second.source.reader([lease]), 6)) == [*range(4, 10)]
            with pytest.raises(LeaseLost):
                await first.commit(leases[moved], read[moved][4:])


async def test_a_member_that_leaves_hands_over_behind_what_it_has_committed(
    kafka: Kafka, client: str
) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 10))
    async with opened(kafka.bootstrap, topic, client=client) as first:
        (lease,) = await first.assigned(count=1)
        records = await first.read(await first.source.reader([lease]), 10)
        async with opened(kafka.bootstrap, topic, client=client) as second:
            await first.commit(lease, records[:3])
            await committed(kafka, f"g-{topic}", topic, {0: 3})
            await first.source.aclose()
            (lease,) = await second.assigned(count=1)
            assert offsets(await second.read(await second.source.reader([lease]), 7)) == [*range(3, 10)]


async def test_partitions_without_an_offset_begin_at_a_time(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(2)
    produce(kafka.bootstrap, topic, 0, numbered(0, 5), timestamp=1_700_000_000_000)
    produce(kafka.bootstrap, topic, 0, numbered(5, 5), timestamp=1_700_000_010_000)
    produce(kafka.bootstrap, topic, 1, numbered(0, 5), timestamp=1_700_000_000_000)
    async with opened(kafka.bootstrap, topic, At(1_700_000_005.0), client=client) as it:
        first, second = await it.assigned(count=2)
        assert offsets(await it.read(await it.source.reader([first]), 5)) == [*range(5, 10)]
        produce(kafka.bootstrap, topic, 1, numbered(5, 1), timestamp=1_700_000_020_000)
        assert offsets(await it.read(await it.source.reader([second]), 1)) == [5]


async def test_latest_misses_nothing_between_the_mark_and_the_first_read(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 5), timestamp=1)  # as of a producer whose clock is wrong
    async with opened(kafka.bootstrap, topic, None, client=client) as it:
        marked_at = await it.source.mark()
        produce(kafka.bootstrap, topic, 0, numbered(5, 3), timestamp=1)
        await it.source.join(At(marked_at), marked=True)
        (lease,) = await it.assigned(count=1)
        assert offsets(await it.read(await it.source.reader([lease]), 3)) == [5, 6, 7]
    async with opened(kafka.bootstrap, topic, At(marked_at), client=client) as it:
        (lease,) = await it.assigned(count=1)
        assert offsets(await it.read(await it.source.reader([lease]), 3)) == [5, 6, 7]


async def test_a_trimmed_offset_is_passed_over_with_one_warning(
    kafka: Kafka, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 10))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 3)
        await it.commit(lease, records)
        await committed(kafka, f"g-{topic}", topic, {0: 3})
    kafka.delete_records(topic, 0, before=6)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        assert offsets(await it.read(await it.source.reader([lease]), 4)) == [6, 7, 8, 9]
    said = [record for record in caplog.records if "not in the topic" in record.message]
    assert [vars(record)["oldest"] for record in said] == [6]


async def test_only_committed_transactions_are_read(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    kafka.transaction(topic, [b"kept"], commit=True)
    kafka.transaction(topic, [b"thrown away"], commit=False)
    kafka.transaction(topic, [b"kept too"], commit=True)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (lease,) = await it.assigned(count=1)
        records = await it.read(await it.source.reader([lease]), 2)
        values = [json.loads(record.event)["value"] for record in records]
        assert values == ["a2VwdA==", "a2VwdCB0b28="]


async def test_a_slow_reader_bounds_what_is_held_and_loses_nothing(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(2)
    for partition in range(2):
        produce(kafka.bootstrap, topic, partition, [b"x" * 1000] * 10_000)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        slow, quick = await it.assigned(count=2)
        waiting = await it.source.reader([slow])
        first = await it.read(waiting, 1)
        reader = await it.source.reader([quick])
        assert offsets(await it.read(reader, 10_000)) == [*range(10_000)]
        rest = await it.read(waiting, 9_999)
        assert offsets(first + rest) == [*range(10_000)]


async def test_a_reader_may_rest_for_longer_than_a_client_may_go_without_a_poll(
    kafka: Kafka, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_client, "LEAST_POLL_INTERVAL_S", 1.0)
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, [b"x" * 1000] * 5000)  # more than is held
    settings = GroupSettings(topic, f"g-{topic}", None, 1.0, 1.0, read_committed=True)
    maker = RecordMaker(topic)
    made = new_client(client, settings, Access(kafka.bootstrap), maker)
    options = {"topic": topic, "bootstrap_servers": kafka.bootstrap, "starting_position": "TRIM_HORIZON"}
    source = KafkaSource("slow", made, maker, BlockingClient("slow", 1), topic, settings)
    it = Opened(KafkaTrigger.parse(options), source)
    try:
        await source.join(Oldest())
        (lease,) = await it.assigned(count=1)
        reader = await source.reader([lease])
        first = await it.read(reader, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await source.change()
        rest = await it.read(reader, 4999)
        assert offsets(first + rest) == [*range(5000)]
        await it.commit(lease, first + rest)
        await committed(kafka, f"g-{topic}", topic, {0: 5000})
    finally:
        await source.aclose()


async def test_several_partitions_share_a_reader(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(3)
    for partition in range(3):
        produce(kafka.bootstrap, topic, partition, numbered(0, 10))
    async with opened(kafka.bootstrap, topic, client=client) as it:
        leases = await it.assigned(count=3)
        records = await it.read(await it.source.reader(leases), 30)
        for lease in leases:
            assert offsets([r for r in records if r.partition == lease.partition]) == [*range(10)]


async def test_a_missing_topic_is_named(kafka: Kafka, client: str) -> None:
    with pytest.raises(Refused, match=r"nowhere.*no such topic"):
        async with opened(kafka.bootstrap, "nowhere", client=client):
            pass


async def test_a_cluster_that_does_not_answer_is_unavailable(client: str) -> None:
    with pytest.raises(SourceUnavailable):
        async with opened("127.0.0.1:1", "t", client=client):
            pass


async def test_a_broker_that_comes_back_is_read_on(own_kafka: Kafka, client: str) -> None:
    topic = own_kafka.create_topic(1)
    produce(own_kafka.bootstrap, topic, 0, numbered(0, 5))
    async with opened(own_kafka.bootstrap, topic, Oldest(), client=client, session_timeout=30) as it:
        (lease,) = await it.assigned(count=1)
        reader = await it.source.reader([lease])
        records = await it.read(reader, 5)
        await it.commit(lease, records)
        await committed(own_kafka, f"g-{topic}", topic, {0: 5})
        own_kafka.kill()
        with pytest.raises(SourceUnavailable):
            async with asyncio.timeout(60.0):
                while True:
                    await reader.read(10, 0.2)
        own_kafka.start()
        produce(own_kafka.bootstrap, topic, 0, numbered(5, 5))
        assert offsets(await it.read_through(reader, 5)) == [5, 6, 7, 8, 9]


async def test_a_closed_source_leaves_no_thread_and_ends_within_seconds(kafka: Kafka, client: str) -> None:
    topic = kafka.create_topic(1)
    async with opened(kafka.bootstrap, topic, client=client) as it:
        await it.assigned(count=1)
        began_at = time.monotonic()
        await it.source.aclose()
        assert time.monotonic() - began_at < 3.0
