"""What is told of Kafka records that were given up, byte for byte as AWS writes it."""

from __future__ import annotations

from millstream.contract.records import Reason, Record
from millstream.contract.stream_trigger import TellsSingly
from millstream.mappings.invocation_record import failure_record
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_records import RecordMaker
from tests.fakes import FUNCTION

TRIGGER = KafkaTrigger.parse(
    {"topic": "orders", "bootstrap_servers": "b1:9092,b2:9092", "starting_position": "LATEST"}
)
EVENT = (
    '{"topic":"orders","partition":3,"offset":7,"timestamp":1764088501456,"timestampType":"CREATE_TIME",'
    '"key":"YWJj","value":"SGVsbG8=","headers":[]}'
)
WHOLE = (
    '{"eventSource":"SelfManagedKafka","bootstrapServers":"b1:9092,b2:9092",'
    '"records":{"orders-3":[' + EVENT + "]}}"
)


def record(offset: int, key: bytes | None = b"abc") -> Record:
    return RecordMaker("orders").record(3, offset, "CREATE_TIME", 1_764_088_501_456, key, b"Hello", None, 0.0)


def test_a_batch_is_told_by_its_span() -> None:
    details = TRIGGER.failure_details([record(7), record(8), record(9)])
    assert details["KafkaBatchInfo"]["batchSize"] == 3
    assert details["KafkaBatchInfo"]["recordsInfo"] == {
        "orders-3": {
            "firstRecordOffset": "7",
            "lastRecordOffset": "9",
            "firstRecordTimestamp": "2025-11-25T16:35:01.456Z",
            "lastRecordTimestamp": "2025-11-25T16:35:01.456Z",
        }
    }


def test_one_record_is_told_as_a_topic_is_given_it() -> None:
    assert isinstance(TRIGGER, TellsSingly)
    told = TRIGGER.record_failure(record(7))
    document = failure_record(
        FUNCTION,
        mapping_id="m",
        partition="orders-3",
        reason=Reason.RETRIES_EXHAUSTED,
        request_id="request-1",
        invoke_count=1,
        function_error="Unhandled",
        details=told.details,
        event=TRIGGER.envelope([record(7)]),
        now=1_764_088_532.123,
        single=True,
        key=told.key,
    )
    assert document.body.decode() == (
        '{"requestContext":{"requestId":"request-1",'
        '"functionArn":"arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",'
        '"condition":"RetriesExhausted","approximateInvokeCount":1},'
        '"responseContext":{"statusCode":200,"executedVersion":"$LATEST","functionError":"Unhandled"},'
        '"version":"1.0","timestamp":"2025-11-25T16:35:32.123Z",'
        '"KafkaBatchInfo":{"batchSize":1,"bootstrapServers":"b1:9092,b2:9092",'
        f'"payloadSize":{len(WHOLE)},'
        '"recordInfo":{"offset":"7","timestamp":"2025-11-25T16:35:01.456Z"}},'
        f'"payload":{WHOLE}}}'
    )


def test_a_failed_record_keeps_its_key() -> None:
    assert TRIGGER.record_failure(record(7, bytes(range(256)))).key == bytes(range(256))
    assert TRIGGER.record_failure(record(7, None)).key is None
