"""Kafka's batchItemFailures and outputs, as functions write them."""

from __future__ import annotations

import pytest

from millstream.triggers.kafka_outputs import Output, read_outputs
from millstream.triggers.kafka_records import item_id


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


@pytest.mark.parametrize("payload", [b"null", b"{}", b'{"records":[]}', b'{"statusCode":200}'])
def test_an_answer_without_records_publishes_nothing(payload: bytes) -> None:
    assert list(read_outputs(payload)) == []


def test_records_are_published_as_events_have_them() -> None:
    answer = b'{"records":[{"topic":"o","key":"YQ==","value":"Yg==","headers":[{"h":[1,-1]}]},{"topic":"o"}]}'
    assert list(read_outputs(answer)) == [Output("o", None, b"a", b"b", [{"h": [1, -1]}]), Output("o")]


@pytest.mark.parametrize(
    "payload",
    [b'"text"', b"[]", b'{"records":[{"value":"Yg=="}]}', b'{"records":[{"topic":"o","value":"%"}]}'],
)
def test_an_answer_of_a_wrong_form_is_refused_with_what_was_wanted(payload: bytes) -> None:
    with pytest.raises(ValueError, match="wanted"):
        read_outputs(payload)
