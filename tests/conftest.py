"""Fixtures that every test can use."""

from tests.brokers.dynamodb_fake import dynamodb_fake
from tests.brokers.kinesis_local import kinesis_local
from tests.brokers.ministack import ministack, own_ministack
from tests.brokers.postgres import own_postgres, postgres

__all__ = ["dynamodb_fake", "kinesis_local", "ministack", "own_ministack", "own_postgres", "postgres"]
