"""Events of every source, read by AWS's Powertools, which know them from AWS itself; without a broker."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aws_lambda_powertools.utilities.data_classes.rabbit_mq_event import RabbitMQEvent
from aws_lambda_powertools.utilities.parser.models import (
    DynamoDBStreamModel,
    KafkaSelfManagedEventModel,
    KinesisDataStreamModel,
    SqsModel,
)

from millstream.amqp.wire import Properties
from millstream.triggers import dynamodb_records, kinesis_records
from millstream.triggers.dynamodb import DynamoDbTrigger
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_records import RecordMaker as KafkaMaker
from millstream.triggers.kafka_records import SchemaMetadata, encode_event
from millstream.triggers.kinesis import KinesisTrigger
from millstream.triggers.kinesis_wire import KinesisRecord
from millstream.triggers.rabbitmq import RabbitMqTrigger
from millstream.triggers.rabbitmq_messages import RecordMaker as RabbitMqMaker
from millstream.triggers.sqs import SqsTrigger
from millstream.triggers.sqs_messages import Queue
from millstream.triggers.sqs_messages import record as sqs_record

ODD = ("", "plain", '{"a": [1, 2]}', "ü \N{CRAB} \u2028 <&>", "\x00\t\r\n", "x" * 100_000)
QUEUE = "arn:aws:sqs:us-east-1:123456789012:orders"
STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2025-11-25T16:35:32.123"


def kafka(*records: Any) -> KafkaSelfManagedEventModel:
    options = {"topic": "t", "bootstrap_servers": "b1:9092,b2:9092", "starting_position": "LATEST"}
    return KafkaSelfManagedEventModel.model_validate_json(KafkaTrigger.parse(options).envelope(records))


@pytest.mark.parametrize("text", ODD)
def test_kafkas_model_reads_every_text_and_header(text: str) -> None:
    make = KafkaMaker("t").record
    names = [
        ("trace", bytes(range(128))),
        ("trace", b""),
        ("none", None),
        ("caf\N{REPLACEMENT CHARACTER}", b"v"),
    ]
    at_ms = 1_764_088_532_123
    records = [
        make(0, 0, "CREATE_TIME", at_ms, b"k", text.encode(), names, 0.0),
        make(0, 1, "LOG_APPEND_TIME", at_ms, None, text.encode(), None, 0.0),
        make(7, 2**62, "CREATE_TIME", -1, b"", text.encode(), [], 0.0),
    ]
    model = kafka(*records)
    assert model.bootstrapServers == ["b1:9092", "b2:9092"]
    assert list(model.records) == ["t-0", "t-7"]
    assert [one.value for part in model.records.values() for one in part] == [text] * 3
    first = model.records["t-0"][0]
    assert [*first.headers[0].values()] == [bytes(range(128))]
    assert [name for header in first.headers for name in header] == [name for name, _ in names]
    assert first.timestamp == datetime.fromtimestamp(at_ms / 1000, UTC)


def test_kafkas_model_reads_the_metadata_of_schemas() -> None:
    made = KafkaMaker("t").record(0, 0, "CREATE_TIME", 0, None, b"{}", None, 0.0)
    event = msgspec.json.decode(made.event) | {
        "valueSchemaMetadata": msgspec.to_builtins(SchemaMetadata("AVRO", "7"))
    }
    (record,) = kafka(msgspec.structs.replace(made, event=encode_event(event))).records["t-0"]
    assert record.valueSchemaMetadata is not None
    assert (record.valueSchemaMetadata.dataFormat, record.valueSchemaMetadata.schemaId) == ("AVRO", "7")


def message(text: str, **attributes: str) -> dict[str, Any]:
    """One as boto3 gives it."""
    system = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1764088532123",
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": "1764088532200",
    }
    kinds = {
        "text": {"DataType": "String", "StringValue": "ü"},
        "number": {"DataType": "Number.int", "StringValue": "1"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    return {
        "MessageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "ReceiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "MD5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "Body": text,
        "Attributes": system | attributes,
        "MessageAttributes": kinds,
    }


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "FIFO"])
def test_the_model_of_sqs_reads_standard_and_fifo_queues(text: str, fifo: bool) -> None:
    arn = f"{QUEUE}.fifo" if fifo else QUEUE
    queue = Queue("orders", "http://localhost/q", arn, "us-east-1", 30, False)
    grouped = {
        "MessageGroupId": "g",
        "MessageDeduplicationId": "d",
        "SequenceNumber": "18849496460467696128",
    }
    records = [sqs_record(message(text, **(grouped if fifo else {})), queue, 5.0)] * 2
    model = SqsModel.model_validate_json(SqsTrigger.parse({"queue": "q"}).envelope(records))
    assert [one.body for one in model.Records] == [text] * 2
    assert model.Records[0].eventSourceARN == arn
    assert model.Records[0].attributes.MessageGroupId == ("g" if fifo else None)


@pytest.mark.parametrize("text", ODD)
def test_the_model_of_kinesis_reads_every_record(text: str) -> None:
    data = msgspec.Raw(msgspec.json.encode(text.encode()))
    found = KinesisRecord("ü key", "49590338271490256608559692538361571095921575989136588898", 1.5e9, data)
    maker = kinesis_records.RecordMaker.of("shardId-000000000006", STREAM, False, None)
    options = {"stream": "orders", "starting_position": "LATEST"}
    envelope = KinesisTrigger.parse(options).envelope(maker.records([found, found], 5.0))
    model = KinesisDataStreamModel.model_validate_json(envelope)
    assert [one.kinesis.data for one in model.Records] == [text.encode()] * 2


@pytest.mark.parametrize("name", ["INSERT", "MODIFY", "REMOVE"])
def test_the_model_of_dynamodb_reads_every_kind_of_change(name: str) -> None:
    image = {
        "id": {"S": "ü"},
        "n": {"N": "12345678901234567890.5"},
        "b": {"B": b"\x00\xff"},
        "set": {"NS": ["1", "2"]},
        "map": {"M": {"list": {"L": [{"NULL": True}, {"BOOL": False}]}}},
    }
    change = {
        "ApproximateCreationDateTime": datetime.fromtimestamp(1_764_088_532, UTC),
        "Keys": {"id": {"S": "ü"}},
        "SequenceNumber": "111",
        "SizeBytes": 26,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    change |= {} if name == "REMOVE" else {"NewImage": image}
    change |= {} if name == "INSERT" else {"OldImage": image}
    one = {
        "eventID": "1",
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": change,
    }
    if name == "REMOVE":
        one["userIdentity"] = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
    records = dynamodb_records.RecordMaker("shard", TABLE).records([one], 5.0)
    options = {"stream": "orders", "starting_position": "LATEST"}
    model = DynamoDBStreamModel.model_validate_json(DynamoDbTrigger.parse(options).envelope(records))
    (read,) = model.Records
    assert (read.eventName, read.eventSourceARN) == (name, TABLE)
    assert bool(read.dynamodb.NewImage) == (name != "REMOVE")
    assert bool(read.dynamodb.OldImage) == (name != "INSERT")


@pytest.mark.parametrize("text", ODD)
def test_the_data_class_of_rabbitmq_reads_every_message(text: str) -> None:
    """The parser has no model of it."""
    maker = RabbitMqMaker("orders", "/", False)
    properties = Properties(
        content_type="text/plain", headers={"h": b"v", "n": 10}, delivery_mode=2, priority=1, timestamp=60
    )
    records = [maker.record(1, False, one, text.encode(), 5.0) for one in (properties, Properties())]
    options = {"queue": "orders", "url": "amqp://localhost"}
    event = RabbitMQEvent(json.loads(RabbitMqTrigger.parse(options).envelope(records)))
    assert event.event_source == "aws:rmq"
    first, second = event.rmq_messages_by_queue["orders::/"]
    assert [base64.b64decode(one.data).decode() for one in (first, second)] == [text] * 2
    assert first.decoded_data == text
    assert first.basic_properties.headers["h"] == {"bytes": [118]}
    assert first.basic_properties.body_size == len(text.encode())
    assert second.basic_properties.headers is None
