"""Filters over records: formats of data against formats of patterns, and what the function sees."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.contract.ports import DataFormat, FilterRules, Mismatch
from millstream.contract.records import Record
from millstream.mappings.filters import compile_filters
from tests.fakes import record

SQS = FilterRules("body", ("body",), DataFormat.TEXT, Mismatch.DROP)
KINESIS = FilterRules("data", ("kinesis", "data"), DataFormat.BASE64, Mismatch.DROP)
KAFKA = FilterRules("value", ("value",), DataFormat.BASE64, Mismatch.IGNORE_DATA)
DYNAMODB = FilterRules("dynamodb", ("dynamodb",), DataFormat.JSON, Mismatch.DROP)


def with_event(event: Any) -> Record:
    return msgspec.structs.replace(record(1), event=json.dumps(event).encode())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("body", "pattern", "answer"),
    [
        ("plain", {"body": ["plain"]}, True),
        ("plain", {"body": ["other"]}, False),
        ("plain", {"messageId": ["1"]}, True),
        ("plain", {"body": {"type": ["order"]}}, False),
        ('{"type": "order"}', {"body": {"type": ["order"]}}, True),
        ('{"type": "image"}', {"body": {"type": ["order"]}}, False),
        ('{"type": "order"}', {"body": ['{"type": "order"}']}, False),
        ('{"type": "order"}', {"messageId": ["1"]}, True),
        ('{"type": "order"}', {"body.type": ["order"]}, True),
        ("17", {"body": ["17"]}, True),
    ],
)
def test_sqs_drops_what_is_of_another_format(body: str, pattern: object, answer: bool) -> None:
    event = with_event({"messageId": "1", "body": body})
    assert compile_filters([pattern], SQS).matches(event) is answer


@pytest.mark.parametrize(
    ("value", "pattern", "answer"),
    [
        (b"plain", {"value": ["plain"]}, True),
        (b"plain", {"value": {"type": ["order"]}}, True),
        (b"plain", {"value": {"type": ["order"]}, "topic": ["other"]}, False),
        (b'{"type": "order"}', {"value": ["text"], "topic": ["t"]}, True),
        (b'{"type": "image"}', {"value": {"type": ["order"]}}, False),
        (b"\xff\xfe", {"value": {"type": ["order"]}, "topic": ["t"]}, True),
    ],
)
def test_kafka_looks_at_metadata_alone_where_formats_differ(
    value: bytes, pattern: object, answer: bool
) -> None:
    event = with_event({"topic": "t", "value": b64(value)})
    assert compile_filters([pattern], KAFKA).matches(event) is answer


def test_kinesis_data_and_metadata_are_at_the_top_of_a_pattern() -> None:
    data = b64(b'{"event_type": "function_1"}')
    event = with_event({"kinesis": {"partitionKey": "p", "data": data}, "eventName": "e"})
    assert compile_filters(
        [{"data": {"event_type": ["function_1"]}, "partitionKey": ["p"], "eventName": ["e"]}], KINESIS
    ).matches(event)


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        ({"dynamodb": {"NewImage": {"k": {"S": ["v"]}}}}, True),
        ({"dynamodb": {"NewImage": {"k": ["v"]}}}, False),
        ({"dynamodb": {"NewImage": {"n": {"N": [{"numeric": [">", 1]}]}}}}, False),
        ({"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 0]}]}}, True),
        ({"dynamodb": {"NewImage": {"k": [{"exists": False}]}}}, True),
        ({"eventName": ["INSERT", "MODIFY"]}, True),
    ],
)
def test_dynamodb_attributes_are_matched_with_their_types(pattern: object, answer: bool) -> None:
    image = {"k": {"S": "v"}, "n": {"N": "42"}}
    event = with_event(
        {"eventName": "INSERT", "dynamodb": {"NewImage": image, "ApproximateCreationDateTime": 1.7e9}}
    )
    assert compile_filters([pattern], DYNAMODB).matches(event) is answer


def test_filters_are_or_ed_and_may_be_json_text() -> None:
    filters = compile_filters([{"body": ["a"]}, '{"body": ["b"]}'], SQS)
    assert filters.matches(with_event({"body": "b"}))
    assert not filters.matches(with_event({"body": "c"}))


def test_without_filters_every_record_matches() -> None:
    filters = compile_filters([], SQS)
    assert not filters
    assert filters.matches(with_event({"body": "x"}))


def test_matching_leaves_the_event_as_it_is() -> None:
    event = with_event({"body": '{ "type" : "order" }'})
    before = event.event
    compile_filters([{"body": {"type": ["order"]}}], SQS).matches(event)
    assert event.event is before


def test_every_wrong_filter_is_said_at_once() -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        compile_filters([{"body": "v"}, {"body": ["v"]}, "not json", {"body": [{"prefix": 1}]}], SQS)
    assert [problem.field for problem in invalid.value.problems] == ["filters.0", "filters.2", "filters.3"]
    assert "prefix match pattern must be a string" in invalid.value.problems[2].wanted


def test_more_than_ten_filters_and_long_patterns_are_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="at most 10 filters"):
        compile_filters([{"body": ["v"]}] * 11, SQS)
    with pytest.raises(InvalidConfiguration, match="4096"):
        compile_filters([{"body": ["v" * 5000]}], SQS)
