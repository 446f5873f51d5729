"""Filters over records: formats of data against formats of patterns, and what the function sees."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    fields = [problem.field for problem in invalid.value.problems]
    assert fields == ["filters.0.body", "filters.2", "filters.3.body"]
    assert "prefix match pattern must be a string" in invalid.value.problems[2].wanted


def test_more_than_ten_filters_and_long_patterns_are_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="at most 10 filters"):
        compile_filters([{"body": ["v"]}] * 11, SQS)
    with pytest.raises(InvalidConfiguration, match="4096"):
        compile_filters([{"body": ["v" * 5000]}], SQS)


@pytest.mark.parametrize(
    "declared",
    [
        {"body": {1, 2}},
        b"bytes",
        {("a", "tuple"): [1]},
        {"body": [float("nan")]},
        '{"body": [NaN]}',
        {"body": [10**5000]},
        {"body": [{"exists": 0}]},
    ],
)
def test_what_is_not_json_or_not_a_pattern_is_refused(declared: object) -> None:
    with pytest.raises(InvalidConfiguration):
        compile_filters([declared], SQS)


def test_a_problem_names_the_place_in_a_nested_pattern() -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        compile_filters([{"body": {"a": {"$or": [{"b": [{"prefix": 1}]}, {"c": ["x"]}]}}}], SQS)
    assert [problem.field for problem in invalid.value.problems] == ["filters.0.body.a.b"]


@pytest.mark.parametrize(
    "event",
    [
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b"9" * 5000 + b"}",
        b"[1]",
        b"{",
        b'{"body":"\xff"}',
        b'{"body":"\\ud800"}',
        b'{"body":{"a":1}}',
        b"",
    ],
)
def test_a_malformed_event_is_answered(event: bytes) -> None:
    made = msgspec.structs.replace(record(1), event=event)
    for rules in (SQS, KINESIS, KAFKA, DYNAMODB):
        assert compile_filters([{rules.data_key: {"a": ["x"]}}], rules).matches(made) in (True, False)


@pytest.mark.parametrize("extra", ['"\\ud800"', "9" * 30, "1e999"])
def test_json_that_decoders_differ_about_is_still_json(extra: str) -> None:
    event = with_event({"body": f'{{"type": "order", "extra": {extra}}}'})
    assert compile_filters([{"body": {"type": ["order"]}}], SQS).matches(event)


def test_a_format_that_differs_fails_in_an_or_as_it_does_outside() -> None:
    event = with_event({"messageId": "1", "body": "plain"})
    wrong = {"body": {"a": [{"exists": False}]}}
    assert not compile_filters([wrong], SQS).matches(event)
    assert not compile_filters([{"$or": [wrong, {"messageId": ["9"]}]}], SQS).matches(event)
    assert compile_filters([{"$or": [wrong, {"messageId": ["1"]}]}], SQS).matches(event)


def test_data_of_another_format_is_ignored_in_an_or_as_it_is_outside() -> None:
    event = with_event({"topic": "t", "value": b64(b"plain")})
    either = [{"value": {"a": ["x"]}}, {"topic": ["other"]}]
    assert compile_filters([{"$or": either}], KAFKA).matches(event)
    assert not compile_filters([{"$or": either, "topic": ["other"]}], KAFKA).matches(event)


@pytest.mark.parametrize("event", [{"topic": "t"}, {"topic": "t", "value": None}])
def test_no_data_is_of_no_wrong_format(event: object) -> None:
    assert not compile_filters([{"value": ["x"]}], KAFKA).matches(with_event(event))
    assert not compile_filters([{"value": {"a": ["x"]}}], KAFKA).matches(with_event(event))
    assert compile_filters([{"value": {"a": [{"exists": False}]}}], KAFKA).matches(with_event(event))


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
keys = st.sampled_from(
    ["a", "body", "data", "kinesis", "value", "dynamodb", "$or", "prefix", "exists", "a.b"]
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
)
rules_of_sources = st.sampled_from([SQS, KINESIS, KAFKA, DYNAMODB])


@given(documents, documents, rules_of_sources)
def test_any_value_is_compiled_or_refused_and_any_event_answered_and_left_alone(
    declared: object, event: object, rules: FilterRules
) -> None:
    made = with_event(event)
    before = bytes(made.event)
    try:
        filters = compile_filters([declared], rules)
    except InvalidConfiguration:
        return
    assert filters.matches(made) in (True, False)
    assert made.event == before


@given(st.binary(), rules_of_sources)
def test_any_bytes_are_answered(event: bytes, rules: FilterRules) -> None:
    made = msgspec.structs.replace(record(1), event=event)
    assert compile_filters([{rules.data_key: ["x"]}], rules).matches(made) is False or rules is KAFKA
