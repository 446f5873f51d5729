"""Brokers for tests: one fixture each."""
