"""Fixtures that every test can use."""

import pytest
from hypothesis import settings

from tests.brokers.docker_engine import docker_engine
from tests.brokers.dynamodb_fake import dynamodb_fake
from tests.brokers.kafka import kafka, own_kafka
from tests.brokers.kafka_secure import secure_kafka
from tests.brokers.kinesis_local import kinesis_local
from tests.brokers.ministack import ministack, own_ministack
from tests.brokers.pgbouncer import pgbouncer
from tests.brokers.postgres import own_postgres, postgres
from tests.brokers.rabbitmq import own_rabbitmq, rabbitmq
from tests.brokers.schema_registry import schema_registry

__all__ = [
    "docker_engine",
    "dynamodb_fake",
    "kafka",
    "kinesis_local",
    "ministack",
    "own_kafka",
    "own_ministack",
    "own_postgres",
    "own_rabbitmq",
    "pgbouncer",
    "postgres",
    "rabbitmq",
    "schema_registry",
    "secure_kafka",
]

settings.register_profile("quick", max_examples=15)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--schedules N`: how many whole schedules the simulation tries."""
    parser.addoption(
        "--schedules", default="2000", help="schedules that tests/simulation tries, of all kinds"
    )
