"""Odd headers of AMQP 0-9-1 messages, which a producer's client sends as they are."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any


def _deep(levels: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(levels):
        table = {"t": table}
    return table


ODD_HEADERS: tuple[dict[str, Any], ...] = (
    {"x-death": 5},
    {"x-death": "often"},
    {"x-death": [5]},
    {"x-death": [{"count": "many", "queue": 7}]},
    {"x-death": [{"count": -1}]},
    {"x-delivery-count": "often"},
    {"x-delivery-count": -7},
    {"x-stream-offset": 3},
    {"x-stream-offset": "none"},
    {"deep": _deep(200)},
    {"wide": {f"k{number}": number for number in range(2000)}},
    {"bytes": b"\xff\xfe\x00"},
    {"time": datetime(9999, 12, 31, tzinfo=UTC)},
    {"n": 2**63 - 1, "m": -(2**63)},
    {"list": [[[[1]]], None, True, Decimal("1.5")]},
    {"ü ☃ 😀": "ü ☃ 😀"},
    {"": "no name"},
)
