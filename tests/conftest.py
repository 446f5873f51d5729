"""Fixtures that every test can use."""

from tests.brokers.ministack import ministack, own_ministack

__all__ = ["ministack", "own_ministack"]
