"""The event of a message, byte for byte, and how often it was delivered."""

from __future__ import annotations

import base64
import json
import re
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.amqp.wire import ByteArray, Properties, Timestamp
from millstream.contract.records import Record
from millstream.triggers.rabbitmq import RabbitMqTrigger
from millstream.triggers.rabbitmq_messages import RecordMaker, delivery_count, english

ARN = "arn:aws:mq:us-west-2:111122223333:broker:pizzaBroker:b-9bcfa592-423a-4942-879d-eb284b418fc8"
BODY = b'{"timeout":0,"data":"CZrmf0Gw8Ov4bqLQxD4E"}'

EVENT = (
    '{"eventSource":"aws:rmq",'
    f'"eventSourceArn":"{ARN}",'
    '"rmqMessagesByQueue":{"pizzaQueue::/":[{"basicProperties":{"contentType":"text/plain",'
    '"contentEncoding":null,"headers":{"header1":{"bytes":[118,97,108,117,101,49]},"numberInHeader":10},'
    '"deliveryMode":1,"priority":34,"correlationId":null,"replyTo":null,"expiration":"60000",'
    '"messageId":null,"timestamp":"Jan 1, 1970, 12:33:41 AM","type":null,"userId":"AIDACKCEVSQ6C2EXAMPLE",'
    '"appId":null,"clusterId":null,"bodySize":43},"redelivered":false,'
    '"data":"eyJ0aW1lb3V0IjowLCJkYXRhIjoiQ1pybWYwR3c4T3Y0YnFMUXhENEUifQ=="}]}}'
)
"""Source: AWS, "Using Lambda with Amazon MQ", example event."""


def trigger(**options: object) -> RabbitMqTrigger:
    return RabbitMqTrigger.parse(
        {"queue": "pizzaQueue", "url": "amqp://localhost", "event_source_arn": ARN, **options}
    )


def record(number: int = 1, *, numbered: bool = False, body: bytes = BODY, **properties: Any) -> Record:
    maker = RecordMaker("pizzaQueue", "/", numbered)
    return maker.record(number, False, Properties(**properties), body, 1000.0)


def header(value: object) -> object:
    """A header's value in the event."""
    event = json.loads(record(headers={"h": value}).event)
    return event["basicProperties"]["headers"]["h"]


def test_an_event_is_that_of_the_documents() -> None:
    documented = record(
        content_type="text/plain",
        headers={"header1": b"value1", "numberInHeader": 10},
        delivery_mode=1,
        priority=34,
        expiration="60000",
        timestamp=33 * 60 + 41,
        user_id="AIDACKCEVSQ6C2EXAMPLE",
    )
    assert trigger().envelope([documented]).decode() == EVENT


def test_records_stand_in_their_order_and_under_one_key() -> None:
    bodies = [b"one", b"two", b"three"]
    event = json.loads(trigger().envelope([record(body=body) for body in bodies]))
    (messages,) = event["rmqMessagesByQueue"].values()
    assert [message["basicProperties"]["bodySize"] for message in messages] == [3, 3, 5]


def test_names_that_need_it_are_escaped() -> None:
    maker = RecordMaker('a"b', "c/d\\e", False)
    named = maker.record(1, False, Properties(), b"x", 1.0)
    event = json.loads(trigger(queue='a"b', virtual_host="c/d\\e").envelope([named]))
    assert list(event["rmqMessagesByQueue"]) == ['a"b::c/d\\e']


def test_a_message_without_headers_has_none_and_one_with_an_empty_table_has_that() -> None:
    assert json.loads(record().event)["basicProperties"]["headers"] is None
    assert json.loads(record(headers={}).event)["basicProperties"]["headers"] == {}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"va", {"bytes": [118, 97]}),
        ("ü".encode(), {"bytes": [-61, -68]}),
        (b"\x00\x7f\x80\xff", {"bytes": [0, 127, -128, -1]}),
        (ByteArray(b"\x01\xff"), [1, -1]),
        (10, 10),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (Decimal("123.45"), 123.45),
        (True, True),
        (None, None),
        (Timestamp(33 * 60 + 41), "Jan 1, 1970, 12:33:41 AM"),
        ([b"a", 1, [b"b"]], [{"bytes": [97]}, 1, [{"bytes": [98]}]]),
        ({"k": b"a"}, {"k": {"bytes": [97]}}),
        (float("inf"), None),
    ],
)
def test_headers_are_written_as_javas_are(value: object, seen: object) -> None:
    assert header(value) == seen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Jan 1, 1970, 12:00:00 AM"),
        (12 * 3600, "Jan 1, 1970, 12:00:00 PM"),
        (1_709_210_096, "Feb 29, 2024, 12:34:56 PM"),
        (1_735_689_599, "Dec 31, 2024, 11:59:59 PM"),
        (253_402_300_799, "Dec 31, 9999, 11:59:59 PM"),
        (253_402_300_800, "Jan 1, 10000, 12:00:00 AM"),
        (1_700_000_000_000, "Nov 8, 55840, 10:13:20 PM"),
    ],
)
def test_a_timestamp_is_english_and_of_twelve_hours(seconds: int, text: str) -> None:
    assert english(seconds) == text


@given(st.integers(-(2**64), 2**64))
def test_a_timestamp_of_any_size_is_written(seconds: int) -> None:
    assert re.fullmatch(r"[A-Z][a-z]{2} \d{1,2}, -?\d+, \d{1,2}:\d\d:\d\d [AP]M", english(seconds))


FIELDS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.binary(max_size=20),
        st.binary(max_size=20).map(ByteArray),
        st.integers(0, 2**64 - 1).map(Timestamp),
        st.decimals(-(2**31), 2**31, places=2),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=10,
)
KEYS = (
    st.sampled_from(["x-death", "x-delivery-count", "x-stream-offset", "count", "reason", "queue"])
    | st.text()
)


@given(st.dictionaries(KEYS, FIELDS, max_size=5), st.integers(0, 2**64 - 1), st.booleans())
def test_whatever_a_producer_sets_its_message_is_delivered(
    headers: dict[str, Any], timestamp: int, redelivered: bool
) -> None:
    properties = Properties(headers=headers, timestamp=timestamp, message_id="m")
    made = RecordMaker("q", "/", numbered=True).record(7, redelivered, properties, b"body", 1000.0)
    event = msgspec.json.decode(made.event)
    assert base64.b64decode(event["data"]) == b"body"
    assert event["basicProperties"]["messageId"] == "m"
    assert made.delivery_count >= 1


def test_properties_that_cannot_be_written_are_left_out_and_the_body_is_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """None is known; whatever comes up must not end the connection."""
    maker = RecordMaker("q", "/", numbered=False)
    for number in (7, 8):
        made = maker.record(number, False, Properties(headers={"h": object()}, app_id="a"), b"body", 1000.0)
        event = msgspec.json.decode(made.event)
        assert (event["basicProperties"]["headers"], event["basicProperties"]["appId"]) == (None, None)
        assert base64.b64decode(event["data"]) == b"body"
    (warning,) = caplog.records
    assert warning.message == "properties of a message not read, left out"
    assert (vars(warning)["queue"], vars(warning)["position"], vars(warning)["why"]) == (
        "q",
        "7",
        "TypeError",
    )


def test_headers_that_were_not_read_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    properties = Properties(message_id="m", unread="a header of type '?'")
    made = RecordMaker("q", "/", numbered=False).record(7, False, properties, b"body", 1000.0)
    assert msgspec.json.decode(made.event)["basicProperties"]["messageId"] == "m"
    assert [vars(record)["why"] for record in caplog.records] == ["a header of type '?'"]


def test_delivery_tags_are_told_only_where_failures_are_reported_by_them() -> None:
    assert b"deliveryTag" not in record(7).event
    assert record(7, numbered=True).event.endswith(b',"deliveryTag":"7"}')
    assert record(7, numbered=True).item_id == "7"


def test_a_record_arrived_when_its_producer_says_unless_that_cannot_be() -> None:
    assert record(timestamp=900).arrived_at == 900.0
    assert record(timestamp=1_700_000_000_000).arrived_at == 1000.0
    assert record().arrived_at == 1000.0


def death(queue: bytes, reason: bytes, count: int) -> dict[str, object]:
    return {"queue": queue, "reason": reason, "count": count}


@pytest.mark.parametrize(
    ("redelivered", "headers", "count"),
    [
        (False, None, 1),
        (True, None, 2),
        (False, {"other": 1}, 1),
        (True, {"other": 1}, 2),
        (True, {"x-delivery-count": 5}, 6),
        (False, {"x-delivery-count": 0}, 1),
        (False, {"x-delivery-count": b"many"}, 1),
        (False, {"x-death": [death(b"wait", b"expired", 3), death(b"q", b"rejected", 3)]}, 4),
        (True, {"x-delivery-count": 2, "x-death": [death(b"q", b"rejected", 3)]}, 6),
        (False, {"x-death": [death(b"another", b"rejected", 3)]}, 1),
        (False, {"x-death": b"nonsense"}, 1),
        (False, {"x-death": [b"nonsense"]}, 1),
        (False, {"x-death": 5}, 1),
        (True, {"x-death": True}, 2),
        (False, {"x-death": {"count": 5}}, 1),
        (False, {"x-death": [{"queue": b"q", "reason": b"rejected", "count": b"7"}]}, 1),
        (False, {"x-death": [{"queue": b"q", "reason": b"rejected", "count": True}]}, 1),
        (False, {"x-death": [{"queue": b"q", "reason": b"rejected", "count": -7}]}, 1),
        (False, {"x-death": [{"queue": b"q", "reason": b"rejected", "count": 2**63}]}, 1),
        (False, {"x-death": [{"queue": b"q", "reason": b"rejected"}]}, 1),
        (True, {"x-delivery-count": True}, 2),
        (True, {"x-delivery-count": -5}, 2),
        (True, {"x-delivery-count": 2**62}, 2),
        (False, {"x-delivery-count": 50}, 1),  # a producer's: the broker has not delivered it before
    ],
)
def test_deliveries_are_counted_by_what_the_queue_tells(
    redelivered: bool, headers: dict[str, Any] | None, count: int
) -> None:
    assert delivery_count(redelivered, headers, "q") == count


def test_failure_details_tell_the_queue_and_the_time() -> None:
    details = trigger().failure_details([record(timestamp=0), record(timestamp=60)])
    assert details == {
        "RabbitMQBatchInfo": {
            "eventSourceArn": ARN,
            "queue": "pizzaQueue",
            "virtualHost": "/",
            "batchSize": 2,
            "timestampOfFirstMessage": "1970-01-01T00:00:00.000Z",
            "timestampOfLastMessage": "1970-01-01T00:01:00.000Z",
        }
    }
