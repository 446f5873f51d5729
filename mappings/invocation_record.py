"""Builds invocation records, the documents that destinations are given. Pure.

Two families, as AWS has them: records of an event source mapping (`failure_record`), and records of
an asynchronous invocation (`success_record`). Their keys stand in the order of the wire.
"""

from __future__ import annotations

import msgspec

from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import InvocationRecord, JsonObject
from millstream.contract.records import Reason
from millstream.contract.times import iso_ms

VERSION = "1.0"
STATUS_OK = 200  # of a failed function too: the invocation itself took place

RETRIES_EXHAUSTED = "RetriesExhausted"
"""How records of single failures spell Reason.RETRIES_EXHAUSTED, as those of asynchronous invocations do."""


def failure_record(
    function: FunctionSpec,
    *,
    mapping_id: str,
    partition: str,
    reason: Reason,
    request_id: str,
    invoke_count: int,
    function_error: str | None,
    details: JsonObject,
    event: bytes | None,
    now: float,
    omitted: str | None = None,
    single: bool = False,
    key: bytes | None = None,
) -> InvocationRecord:
    """What an on-failure destination is given when a mapping gives records up.

    `invoke_count` is how often the records were tried, `function_error` "Unhandled", or None where
    the function itself named them as failed. Records that are too old have no `responseContext`, those
    too large a null one. `details` is the trigger's part. `event`, the whole
    event, becomes `payload`, a JSON string; None leaves it out. `omitted` says why a payload, or more, is
    missing that the destination should have had; its key, `payloadOmitted`, is ours.

    A `single` one is about one record: its `payload` is an object, its function's ARN qualified.

    Source: AWS, "Capturing discarded batches for a Kinesis Data Streams event source in Lambda", and "…for
    a self-managed Apache Kafka event source" for single ones, as a topic is given them.
    """
    spelled_else = single and reason is Reason.RETRIES_EXHAUSTED
    document: JsonObject = {
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{function.arn}:{function.version}" if single else function.arn,
            "condition": RETRIES_EXHAUSTED if spelled_else else reason.value,
            "approximateInvokeCount": invoke_count,
        }
    }
    if reason is Reason.RETRIES_EXHAUSTED:
        document["responseContext"] = {
            "statusCode": STATUS_OK,
            "executedVersion": function.version,
            "functionError": function_error,
        }
    elif reason is Reason.TOO_LARGE:
        document["responseContext"] = None
    document |= {"version": VERSION, "timestamp": iso_ms(now), **details}
    if event is not None:
        document["payload"] = msgspec.Raw(event) if single else event.decode()
    if omitted is not None:
        document["payloadOmitted"] = omitted
    return _record(document, function, mapping_id, partition, request_id, now, key, succeeded=False)


def success_record(
    function: FunctionSpec,
    *,
    mapping_id: str,
    partition: str,
    request_id: str,
    event: bytes,
    payload: bytes,
    now: float,
    invoke_count: int = 1,
    key: bytes | None = None,
) -> InvocationRecord:
    """What an on-success destination is given; event and payload are taken over unparsed.

    Source: AWS, "Capturing records of Lambda asynchronous invocations".
    """
    document: JsonObject = {
        "version": VERSION,
        "timestamp": iso_ms(now),
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{function.arn}:{function.version}",
            "condition": "Success",
            "approximateInvokeCount": invoke_count,
        },
        "requestPayload": msgspec.Raw(event),
        "responseContext": {"statusCode": STATUS_OK, "executedVersion": function.version},
        "responsePayload": msgspec.Raw(payload),
    }
    return _record(document, function, mapping_id, partition, request_id, now, key, succeeded=True)


def _record(
    document: JsonObject,
    function: FunctionSpec,
    mapping_id: str,
    partition: str,
    request_id: str,
    now: float,
    key: bytes | None,
    *,
    succeeded: bool,
) -> InvocationRecord:
    return InvocationRecord(
        body=msgspec.json.encode(document),
        function_arn=f"{function.arn}:{function.version}",
        succeeded=succeeded,
        mapping_id=mapping_id,
        partition=partition,
        request_id=request_id,
        written_at=now,
        key=key,
    )
