"""Kafka's batchItemFailures and outputs, as functions write them."""

from __future__ import annotations

import msgspec
import pytest

from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_outputs import Output, read_outputs
from millstream.triggers.kafka_records import RecordMaker, item_id


@pytest.mark.parametrize(
    ("identifier", "found"),
    [
        ({"partition": "t-0", "offset": 100}, "t-0:100"),
        ({"topic-partition": "t-0", "offset": 0}, "t-0:0"),
        ({"partition": "t-0", "offset": "100"}, None),
        ({"partition": "t-0", "offset": True}, None),
        ({"partition": 0, "offset": 100}, None),
        ({"offset": 100}, None),
        ("t-0:100", None),
        (None, None),
    ],
)
def test_an_identifier_is_an_object_of_partition_and_offset(identifier: object, found: str | None) -> None:
    assert item_id(identifier) == found


@pytest.mark.parametrize("partitions", [[0], [0, 0, 0], [0, 1, 0, 2, 1]])
def test_an_event_has_the_records_of_each_partition_in_order(partitions: list[int]) -> None:
    make = RecordMaker("t").record
    records = [make(p, n, "CREATE_TIME", 7, b"k", b"v", None, 0.0) for n, p in enumerate(partitions)]
    options = {"topic": "t", "bootstrap_servers": "a:1,b:2", "starting_position": "LATEST"}
    event = msgspec.json.decode(KafkaTrigger.parse(options).envelope(records))
    assert [event.pop("eventSource"), event.pop("bootstrapServers")] == ["SelfManagedKafka", "a:1,b:2"]
    wanted: dict[str, list[int]] = {}
    for number, partition in enumerate(partitions):
        wanted.setdefault(f"t-{partition}", []).append(number)
    assert event == {"records": event["records"]}
    assert {name: [r["offset"] for r in part] for name, part in event["records"].items()} == wanted


@pytest.mark.parametrize("payload", [b"null", b"{}", b'{"records":[]}', b'{"statusCode":200}'])
def test_an_answer_without_records_publishes_nothing(payload: bytes) -> None:
    assert list(read_outputs(payload)) == []


def test_records_are_published_as_events_have_them() -> None:
    answer = b'{"records":[{"topic":"o","key":"YQ==","value":"Yg==","headers":[{"h":[1,-1]}]},{"topic":"o"}]}'
    assert list(read_outputs(answer)) == [Output("o", None, b"a", b"b", [{"h": [1, -1]}]), Output("o")]


@pytest.mark.parametrize(
    "payload",
    [
        b'"text"',
        pytest.param(b"[" * 100_000, id="deep"),
        b"[]",
        b'{"records":[{"value":"Yg=="}]}',
        b'{"records":[{"topic":"o","value":"%"}]}',
        b'{"records":[{"topic":""}]}',
        b'{"records":[{"topic":"\\ud83d"}]}',
        b'{"records":[{"topic":"o","headers":[{"\\ud83d":[1]}]}]}',
        b'{"records":[{"topic":"o","partition":-1}]}',
        b'{"records":[{"topic":"o","partition":2147483648}]}',
        pytest.param(b'{"records":[{"topic":"o","value":"%b"}]}' % (b"QUJD" * 350_000), id="1 MB"),
    ],
)
def test_an_answer_of_a_wrong_form_is_refused_with_what_was_wanted(payload: bytes) -> None:
    with pytest.raises(ValueError, match="wanted"):
        read_outputs(payload)


@pytest.mark.parametrize("more", [b'"note":"\\ud83d"', b'"n":1e400', b'"n":' + b"9" * 5000])
def test_what_stands_beside_the_records_may_be_any_json(more: bytes) -> None:
    answer = b'{"records":[{"topic":"o","value":"Yg=="}],%b}' % more
    assert list(read_outputs(answer)) == [Output("o", None, None, b"b")]


@pytest.mark.parametrize("ms", [-1, 0, 1_700_000_000_000_000, 2**63 - 1])
def test_no_timestamp_of_a_producer_raises_while_a_record_is_given_up(ms: int) -> None:
    record = RecordMaker("t").record(0, 0, "CREATE_TIME", ms, None, b"v", None, 1_700_000_000.5)
    options = {"topic": "t", "bootstrap_servers": "a:1", "starting_position": "LATEST"}
    trigger = KafkaTrigger.parse(options)
    (told,) = trigger.failure_details([record])["KafkaBatchInfo"]["recordsInfo"].values()
    assert (
        told["firstRecordTimestamp"]
        == trigger.record_failure(record).details["KafkaBatchInfo"]["recordInfo"]["timestamp"]
    )
    assert msgspec.json.decode(record.event)["timestamp"] == ms
    assert record.arrived_at == (ms / 1000 if ms >= 0 else 1_700_000_000.5)
