"""Invocation records, byte for byte as AWS writes them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.records import Reason
from millstream.mappings.invocation_record import failure_record, success_record
from tests.fakes import FUNCTION

NOW = 1_764_088_532.123
DETAILS = {
    "KinesisBatchInfo": {
        "shardId": "shardId-000000000000",
        "startSequenceNumber": "1",
        "endSequenceNumber": "2",
        "approximateArrivalOfFirstRecord": "2025-11-25T16:35:01.456Z",
        "approximateArrivalOfLastRecord": "2025-11-25T16:35:01.456Z",
        "batchSize": 1,
        "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
    }
}
HEAD = (
    '{"requestContext":{"requestId":"request-1",'
    '"functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f",'
    '"condition":"CONDITION","approximateInvokeCount":2},'
)
RESPONSE = '"responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},'
TAIL = (
    '"version":"1.0","timestamp":"2025-11-25T16:35:32.123Z",'
    '"KinesisBatchInfo":{"shardId":"shardId-000000000000","startSequenceNumber":"1","endSequenceNumber":"2",'
    '"approximateArrivalOfFirstRecord":"2025-11-25T16:35:01.456Z",'
    '"approximateArrivalOfLastRecord":"2025-11-25T16:35:01.456Z",'
    '"batchSize":1,"streamArn":"arn:aws:kinesis:us-east-1:000000000000:stream/s"}'
)


def failure(
    reason: Reason = Reason.RETRIES_EXHAUSTED, error: str | None = "Unhandled", event: bytes | None = None
) -> bytes:
    made = failure_record(
        FUNCTION,
        mapping_id="mapping-1",
        partition="p",
        reason=reason,
        request_id="request-1",
        invoke_count=2,
        function_error=error,
        details=DETAILS,
        event=event,
        now=NOW,
    )
    assert (made.succeeded, made.mapping_id, made.partition) == (False, "mapping-1", "p")
    assert (made.request_id, made.written_at) == ("request-1", NOW)
    assert made.function_arn == "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"
    return made.body


def success(event: bytes, payload: bytes, count: int = 1) -> bytes:
    made = success_record(
        FUNCTION,
        mapping_id="mapping-1",
        partition="p",
        request_id="request-1",
        event=event,
        payload=payload,
        now=NOW,
        invoke_count=count,
    )
    assert made.succeeded
    return made.body


def test_a_failure_is_written_as_on_aws() -> None:
    assert failure().decode() == HEAD.replace("CONDITION", "RetryAttemptsExhausted") + RESPONSE + TAIL + "}"


def test_records_that_the_function_named_have_no_function_error() -> None:
    assert b'"functionError":null}' in failure(error=None)


def test_records_too_old_have_no_response() -> None:
    expected = HEAD.replace("CONDITION", "RecordAgeExceeded") + TAIL + "}"
    assert failure(Reason.TOO_OLD).decode() == expected


def test_records_too_large_have_a_null_response() -> None:
    expected = (
        HEAD.replace("CONDITION", "MaximumPayloadSizeExceeded") + '"responseContext":null,' + TAIL + "}"
    )
    assert failure(Reason.TOO_LARGE).decode() == expected


def test_the_payload_is_the_event_as_a_string_and_stands_last() -> None:
    event = '{"Records":[{"body":"é \U0001f980 \\" \\u0000"}]}'
    record = json.loads(failure(event=event.encode()))
    assert list(record)[-1] == "payload"
    assert record["payload"] == event
    assert json.loads(record["payload"]) == json.loads(event)


def test_a_failure_of_one_record_is_written_as_on_aws() -> None:
    event = b'{"eventSource":"SelfManagedKafka","records":{"t-0":[{"offset": 7}]}}'
    made = failure_record(
        FUNCTION,
        mapping_id="mapping-1",
        partition="t-0",
        reason=Reason.RETRIES_EXHAUSTED,
        request_id="request-1",
        invoke_count=1,
        function_error="Unhandled",
        details={"KafkaBatchInfo": {"batchSize": 1, "recordInfo": {"offset": "7"}}},
        event=event,
        now=NOW,
        single=True,
        key=b"k",
    )
    assert made.body.decode() == (
        '{"requestContext":{"requestId":"request-1",'
        '"functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",'
        '"condition":"RetriesExhausted","approximateInvokeCount":1},'
        + RESPONSE
        + '"version":"1.0","timestamp":"2025-11-25T16:35:32.123Z",'
        '"KafkaBatchInfo":{"batchSize":1,"recordInfo":{"offset":"7"}},'
        f'"payload":{event.decode()}}}'
    )
    assert (made.key, made.size_bytes) == (b"k", len(made.body) + 1)


def test_a_success_is_written_as_on_aws() -> None:
    assert success(b'{"Records":[ 1.0 ]}', b"null").decode() == (
        '{"version":"1.0","timestamp":"2025-11-25T16:35:32.123Z",'
        '"requestContext":{"requestId":"request-1",'
        '"functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",'
        '"condition":"Success","approximateInvokeCount":1},'
        '"requestPayload":{"Records":[ 1.0 ]},'
        '"responseContext":{"statusCode":200,"executedVersion":"$LATEST"},'
        '"responsePayload":null}'
    )


def test_a_success_counts_its_attempts() -> None:
    assert b'"approximateInvokeCount":3}' in success(b"{}", b"{}", 3)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values, json_values, st.sampled_from([None, 1]))
def test_event_and_answer_are_taken_over_byte_for_byte(event: Any, answer: Any, indent: int | None) -> None:
    sent = json.dumps(event, indent=indent).encode()
    answered = json.dumps(answer, indent=indent).encode()
    body = success(sent, answered)
    assert b'"requestPayload":' + sent + b"," in body
    assert body.endswith(b'"responsePayload":' + answered + b"}")
    assert json.loads(failure(event=sent))["payload"] == sent.decode()
