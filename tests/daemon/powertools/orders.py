"""Handlers as users of Powertools for Python write them; each order that is taken is a line of the log."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord
from aws_lambda_powertools.utilities.data_classes.kafka_event import KafkaEventRecord
from aws_lambda_powertools.utilities.data_classes.kinesis_stream_event import KinesisStreamRecord
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.parser import BaseModel, envelopes, event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="orders")
tracer = Tracer(service="orders")
metrics = Metrics(namespace="shop", service="orders")
store = DynamoDBPersistenceLayer(table_name="idempotency")
config = IdempotencyConfig(event_key_jmespath="id")


class Order(BaseModel):
    id: int
    fails: bool = False


@tracer.capture_method
def take(order: Order) -> None:
    if order.fails:
        raise ValueError("not this one")
    metrics.add_metric(name="orders", unit=MetricUnit.Count, value=1)
    logger.info("taken", order=order.id)


@idempotent_function(data_keyword_argument="order", persistence_store=store, config=config)  # type: ignore[untyped-decorator]  # Powertools has no types for it
def take_once(*, order: dict[str, Any]) -> int:
    take(Order(**order))
    return int(order["id"])


def of_queue(record: SQSRecord) -> None:
    take_once(order=record.json_body)


def of_stream(record: KinesisStreamRecord) -> None:
    take(Order(**record.kinesis.data_as_json()))


def of_table(record: DynamoDBRecord) -> None:
    assert record.dynamodb is not None
    item = record.dynamodb.new_image
    take(Order(id=int(item["id"]), fails=bool(item.get("fails"))))


def of_topic(record: KafkaEventRecord) -> None:
    take(Order(**record.json_value))


queue = BatchProcessor(event_type=EventType.SQS)
stream = BatchProcessor(event_type=EventType.KinesisDataStreams)
table = BatchProcessor(event_type=EventType.DynamoDBStreams)
topic = BatchProcessor(event_type=EventType.Kafka)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics(capture_cold_start_metric=True)
def from_queue(event: dict[str, Any], context: LambdaContext) -> Any:
    config.register_lambda_context(context)
    metrics.add_metric(name="batches", unit=MetricUnit.Count, value=1)
    return process_partial_response(event, of_queue, queue, context)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def from_stream(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event, of_stream, stream, context)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def from_table(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event, of_table, table, context)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def from_topic(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event, of_topic, topic, context)


@logger.inject_lambda_context
@event_parser(model=Order, envelope=envelopes.SqsEnvelope)
def parsed(event: list[Order], context: LambdaContext) -> None:
    for order in event:
        logger.info("taken", order=order.id)
