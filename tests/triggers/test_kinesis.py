"""The Kinesis trigger: its options, the event's exact bytes, and how it finds its stream."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.records import Position, Record
from millstream.contract.streams import At, Latest, Oldest, Partition, StreamPolicy
from millstream.triggers.kinesis import KinesisTrigger
from millstream.triggers.kinesis_held import Held
from millstream.triggers.kinesis_records import HashRange, RecordMaker
from millstream.triggers.kinesis_wire import KinesisRecord
from millstream.triggers.registry import parse_trigger
from tests.brokers.kinesis_fake import ARN, CONSUMER_ARN, NAME, KinesisFake, Refusal, shard
from tests.contract.queue_kit import FUNCTION
from tests.contract.streams import host
from tests.triggers.aggregates import packed
from tests.triggers.leaping_clock import LeapingClock

SEQUENCE = "49590338271490256608559692538361571095921575989136588898"
SHARD = "shardId-000000000006"
AT = 1_545_084_650.987
TAIL = (
    '"eventSource":"aws:kinesis","eventVersion":"1.0",'
    f'"eventID":"{SHARD}:{SEQUENCE}","eventName":"aws:kinesis:record",'
    '"invokeIdentityArn":"arn:aws:iam::000000000000:role/millstream","awsRegion":"us-east-1",'
)


@pytest.fixture
def fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


def trigger(**options: object) -> KinesisTrigger:
    return KinesisTrigger.parse({"stream": NAME, "starting_position": "TRIM_HORIZON", **options})


def maker(unpacks: bool = False, arn: str = ARN, hash_range: HashRange | None = None) -> RecordMaker:
    return RecordMaker.of(SHARD, arn, unpacks, hash_range)


def found(data: bytes, key: str = "1") -> KinesisRecord:
    return KinesisRecord(key, SEQUENCE, AT, msgspec.Raw(msgspec.json.encode(data)))


def record(number: int, at: float = AT) -> Record:
    position = str(number)
    return Record(
        partition=SHARD,
        position=Position(position),
        item_id=position,
        event=b"{}",
        arrived_at=at,
        received_at=at,
    )


def made_of(aggregate: KinesisRecord, hash_range: HashRange | None = None) -> list[Record]:
    """The records of one that is taken apart."""
    return Held(maker(unpacks=True, hash_range=hash_range), [aggregate], 5.0).part(1000, 1e9)[0]


def test_an_event_has_the_keys_of_aws_in_their_order() -> None:
    (made,) = maker().records([found(b"Hello, this is a test.")], 5.0)
    assert made.event.decode() == (
        '{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"1",'
        f'"sequenceNumber":"{SEQUENCE}","data":"SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",'
        f'"approximateArrivalTimestamp":1545084650.987}},{TAIL}"eventSourceARN":"{ARN}"}}'
    )
    assert (made.partition, made.position, made.item_id) == (SHARD, SEQUENCE, SEQUENCE)
    assert (made.arrived_at, made.received_at, made.ordering_key) == (AT, 5.0, "1")


def test_a_packed_record_has_its_own_key_and_data_and_its_number() -> None:
    aggregate = found(packed(("a", None, b"0"), ("b", None, b"1")))
    first, second = made_of(aggregate)
    assert second.event.decode() == (
        '{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"b",'
        f'"sequenceNumber":"{SEQUENCE}","data":"MQ==",'
        f'"approximateArrivalTimestamp":1545084650.987,"subSequenceNumber":1}},{TAIL}"eventSourceARN":"{ARN}"}}'
    )
    assert [first.position, second.position] == [f"{SEQUENCE}:0", f"{SEQUENCE}:1"]
    assert first.item_id == second.item_id == SEQUENCE


def test_packed_records_of_another_shard_are_left_out_and_the_others_keep_their_numbers() -> None:
    aggregate = found(packed(("a", "5", b"0"), ("b", "50", b"1"), ("c", "6", b"2")))
    made = made_of(aggregate, HashRange(0, 10))
    assert [one.position for one in made] == [f"{SEQUENCE}:0", f"{SEQUENCE}:2"]


def test_packed_records_stay_as_they_are_where_it_is_not_asked_for() -> None:
    (made,) = maker().records([found(packed(("a", None, b"0")))], 5.0)
    assert made.position == SEQUENCE


def test_an_event_names_the_partition_and_the_account_of_the_stream() -> None:
    arn = "arn:aws-cn:kinesis:cn-north-1:111111111111:stream/s"
    (made,) = maker(arn=arn).records([found(b"")], 5.0)
    event = msgspec.json.decode(made.event)
    assert event["invokeIdentityArn"] == "arn:aws-cn:iam::111111111111:role/millstream"
    assert event["awsRegion"] == "cn-north-1"
    assert event["eventSourceARN"] == arn


@pytest.mark.parametrize("stream", [NAME, ARN, CONSUMER_ARN])
def test_a_stream_is_declared_by_name_or_arn_and_shown_as_declared(stream: str) -> None:
    assert trigger(stream=stream).source == stream


def test_the_kind_is_registered() -> None:
    parsed = parse_trigger("kinesis", {"stream": NAME, "starting_position": "LATEST"})
    assert isinstance(parsed, KinesisTrigger)


def test_the_defaults_are_those_of_aws() -> None:
    parsed = trigger()
    assert (parsed.limits.size, parsed.limits.window_s) == (100, 0.0)
    assert parsed.policy == StreamPolicy()
    assert parsed.capabilities.ordered_by_key


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"starting_position": "TRIM_HORIZON"}, Oldest()),
        ({"starting_position": "LATEST"}, Latest()),
        ({"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": 1.5}, At(1.5)),
    ],
)
def test_a_starting_position_is_what_was_declared(options: dict[str, object], start: object) -> None:
    assert trigger(**options).starting_position == start


@pytest.mark.parametrize(
    "stream",
    ["arn:aws:sqs:us-east-1:000000000000:q", "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/l"],
)
def test_an_arn_of_another_service_is_one_clear_line(stream: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        trigger(stream=stream)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        "stream: wanted a stream's name or ARN, or the ARN of a consumer of it, found 'arn:"
    )


async def test_failure_details_are_those_of_aws_in_their_order(fake: KinesisFake) -> None:
    parsed = trigger()
    source = await parsed.open(host(fake.url), FUNCTION)
    await source.aclose()
    details = parsed.failure_details([record(7), record(8, AT + 1.5)])
    assert msgspec.json.encode(details).decode() == (
        f'{{"KinesisBatchInfo":{{"shardId":"{SHARD}","startSequenceNumber":"7","endSequenceNumber":"8",'
        '"approximateArrivalOfFirstRecord":"2018-12-17T22:10:50.987Z",'
        '"approximateArrivalOfLastRecord":"2018-12-17T22:10:52.487Z",'
        f'"batchSize":2,"streamArn":"{ARN}"}}}}'
    )


async def test_a_consumer_names_its_stream_in_failure_details_and_itself_in_events(fake: KinesisFake) -> None:
    parsed = trigger(stream=CONSUMER_ARN)
    source = await parsed.open(host(fake.url), FUNCTION)
    await source.aclose()
    assert source.event_source_arn == CONSUMER_ARN
    assert parsed.failure_details([record(7)])["KinesisBatchInfo"]["streamArn"] == ARN


@pytest.mark.parametrize("stream", [NAME, ARN, CONSUMER_ARN])
async def test_a_stream_that_is_being_made_is_waited_for(fake: KinesisFake, stream: str) -> None:
    fake.status = "CREATING"
    with pytest.raises(SourceUnavailable, match=NAME):
        await trigger(stream=stream).open(host(fake.url), FUNCTION)


@pytest.mark.parametrize(
    ("status", "says"), [(None, "no stream 'orders'"), ("DELETING", "stream 'orders' is being deleted")]
)
@pytest.mark.parametrize("stream", [NAME, ARN, CONSUMER_ARN])
async def test_a_stream_that_is_not_there_or_goes_is_named(
    fake: KinesisFake, status: str | None, says: str, stream: str
) -> None:
    fake.status = status
    with pytest.raises(Refused, match=f"^{says}$"):
        await trigger(stream=stream).open(host(fake.url), FUNCTION)


@pytest.mark.parametrize(
    ("status", "says"), [(None, "no consumer '{}'"), ("DELETING", "consumer '{}' is being deleted")]
)
async def test_a_consumer_that_is_not_there_or_goes_is_named(
    fake: KinesisFake, status: str | None, says: str
) -> None:
    fake.consumer_status = status
    with pytest.raises(Refused, match=f"^{says.format(CONSUMER_ARN)}$"):
        await trigger(stream=CONSUMER_ARN).open(host(fake.url), FUNCTION)


async def test_a_consumer_that_is_being_made_is_waited_for(fake: KinesisFake) -> None:
    fake.consumer_status = "CREATING"
    with pytest.raises(SourceUnavailable):
        await trigger(stream=CONSUMER_ARN).open(host(fake.url), FUNCTION)


async def test_a_refusal_at_the_start_names_its_code(fake: KinesisFake) -> None:
    fake.refusals["DescribeStreamSummary"].append(Refusal("AccessDeniedException"))
    with pytest.raises(Refused, match=rf"^stream {NAME}: AccessDeniedException$"):
        await trigger().open(host(fake.url), FUNCTION)


async def test_an_endpoint_that_is_no_url_is_named() -> None:
    with pytest.raises(InvalidConfiguration, match="endpoint_url: wanted a URL"):
        await trigger().open(host("localhost"), FUNCTION)


async def test_the_region_is_that_of_the_arn(fake: KinesisFake) -> None:
    source = await trigger(stream=ARN.replace("us-east-1", "eu-west-1")).open(host(fake.url), FUNCTION)
    await source.aclose()
    assert fake.regions == ["eu-west-1"]


async def test_all_pages_of_the_shards_are_read(fake: KinesisFake) -> None:
    fake.list_page = 2
    fake.shards = [shard(f"shardId-{number:012}") for number in range(5)]
    source = await trigger().open(host(fake.url), FUNCTION)
    assert [partition.id for partition in await source.partitions()] == [
        one["ShardId"] for one in fake.shards
    ]
    await source.aclose()


async def test_a_merged_shard_has_both_parents_and_a_closed_one_is_told(fake: KinesisFake) -> None:
    closed = {"StartingSequenceNumber": "0", "EndingSequenceNumber": "9"}
    fake.shards = [
        shard("a", SequenceNumberRange=closed),
        shard("b", SequenceNumberRange=closed),
        shard("c", ParentShardId="a", AdjacentParentShardId="b"),
    ]
    source = await trigger().open(host(fake.url), FUNCTION)
    assert list(await source.partitions()) == [
        Partition("a", closed=True),
        Partition("b", closed=True),
        Partition("c", frozenset({"a", "b"})),
    ]
    await source.aclose()


@pytest.mark.parametrize("stream", [NAME, ARN, CONSUMER_ARN])
async def test_a_stream_that_is_made_anew_has_another_identity_from_the_next_list_on(
    fake: KinesisFake, stream: str
) -> None:
    source = await trigger(stream=stream).open(host(fake.url), FUNCTION)
    identities = []
    for created_at in (1_750_000_000.123, 1_750_000_000.123, 1_750_000_000.124):
        fake.created_at = created_at
        await source.partitions()
        identities.append(source.identity)
    await source.aclose()
    assert identities[0] == identities[1] == "2025-06-15T15:06:40.123000+00:00"
    assert identities[2] != identities[0]


async def test_a_list_of_shards_costs_one_call_beside_its_own(fake: KinesisFake) -> None:
    source = await trigger().open(host(fake.url), FUNCTION)
    fake.requests.clear()
    await source.partitions()
    await source.aclose()
    assert [operation for operation, _ in fake.requests] == ["DescribeStreamSummary", "ListShards"]


@pytest.mark.parametrize("date", ["", "soon", "Thu, 99 Foo 20255 25:00:00 GMT"])
async def test_a_date_that_cannot_be_read_leaves_the_mark_to_our_clock(fake: KinesisFake, date: str) -> None:
    fake.date_text = date
    source = await trigger().open(host(fake.url, LeapingClock(1_760_000_000.25)), FUNCTION)
    assert await source.mark() == 1_760_000_000.25
    await source.aclose()


@pytest.mark.parametrize("digits", [40, 5000])
def test_a_packed_record_with_a_hash_key_of_no_shard_is_delivered(digits: int) -> None:
    aggregate = found(packed(("a", "9" * digits, b"0"), ("b", None, b"1")))
    made = made_of(aggregate, HashRange(0, 2**128 - 1))
    assert {one.item_id for one in made} == {SEQUENCE}
    assert all(one.refused is None for one in made)


@pytest.mark.parametrize(
    ("ours", "theirs", "mark"),
    [
        (1_760_000_000.25, 1_760_000_003.0, 1_760_000_000.25),  # our clock is behind, or just the same
        (1_760_003_600.25, 1_760_000_000.0, 1_760_000_000.0),  # ahead
    ],
)
async def test_a_mark_is_the_earlier_of_our_time_and_the_services(
    fake: KinesisFake, ours: float, theirs: float, mark: float
) -> None:
    fake.date = theirs
    source = await trigger().open(host(fake.url, LeapingClock(ours)), FUNCTION)
    assert await source.mark() == mark
    await source.aclose()
