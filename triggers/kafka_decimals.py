"""Reads Avro's decimals in a time that their size bounds.

The library's own reader takes any number of bytes, and minutes for a megabyte of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from math import ceil, log2
from typing import Any, Final

from fastavro.read import LOGICAL_READERS

DECIMAL: Final = "millstream-decimal"
"""The logical type that stands for `decimal` in schemas that are read here."""

MOST_BYTES: Final = 1024
"""Some 2,400 digits."""


def read_decimal(data: bytes, schema: Mapping[str, Any] | None = None, _: object = None) -> Decimal:
    """The number in a decimal's bytes.

    Raises:
        ValueError: it has more digits than its schema lets it have, or than are taken.
    """
    precision = (schema or {})["precision"]
    if len(data) > min(ceil(precision * log2(10) / 8) + 1, MOST_BYTES):
        raise ValueError("more digits than its precision")
    context = Context(prec=precision)
    unscaled = context.create_decimal(int.from_bytes(data, signed=True))
    return unscaled.scaleb(-(schema or {}).get("scale", 0), context)


# As the library has its readers of further logical types added. Source: fastavro, "Custom Logical Types".
LOGICAL_READERS |= {f"bytes-{DECIMAL}": read_decimal, f"fixed-{DECIMAL}": read_decimal}
