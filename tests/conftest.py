"""Fixtures that every test can use."""

from tests.brokers.kinesis_local import kinesis_local
from tests.brokers.ministack import ministack, own_ministack

__all__ = ["kinesis_local", "ministack", "own_ministack"]
