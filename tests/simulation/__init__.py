"""Whole schedules of what may happen to mappings, over ports in memory and on virtual time."""
