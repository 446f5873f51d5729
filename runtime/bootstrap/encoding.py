"""Results and error documents as the bytes that AWS's Python runtime makes of them.

It is simplejson that encodes there: decimals with all their digits, named tuples as objects, bytes and keys
of bytes as text. Characters outside ASCII are escaped up to Python 3.11. Source: AWS, awslambdaric 4.2.2.
"""

from __future__ import annotations

import decimal
import math
from typing import Any

import simplejson

MAX_RESPONSE_BYTES = 6291556
FIRST_UNESCAPED = (3, 12)
"""The first version of AWS's Python runtimes that does not escape characters outside ASCII."""

PYTHON = "AWS_Lambda_python"


class _Encoder(simplejson.JSONEncoder):
    """simplejson's, but for decimals: those that are no number are NaN, whatever their sign."""

    def default(self, o: Any) -> Any:
        if isinstance(o, decimal.Decimal):
            return math.nan if o.is_nan() else simplejson.RawJSON(str(o))
        return super().default(o)


_encoders = {
    ascii_alone: _Encoder(use_decimal=False, allow_nan=True, ensure_ascii=ascii_alone)
    for ascii_alone in (True, False)
}
_encoder = _encoders[True]


def choose(execution_environment: str) -> None:
    """Encode as the runtime that AWS_EXECUTION_ENV names does."""
    global _encoder
    _encoder = _encoders[escapes(execution_environment.removeprefix(PYTHON))]


def escapes(version: str) -> bool:
    """True if the runtime of a version, `3.12` say, escapes characters outside ASCII."""
    numbers = version.split(".")
    return not all(map(str.isdecimal, numbers)) or tuple(map(int, numbers)) < FIRST_UNESCAPED


def encode(value: Any) -> bytes:
    """JSON; bytes as they are. What of it is no JSON, NaN say, the daemon sees.

    Raises:
        Exception: there is no JSON of it; or none of UTF-8, for half of a surrogate pair that is not escaped.
    """
    return value if isinstance(value, bytes) else _encoder.encode(value).encode()


def decode(event: bytes) -> Any:
    """An event. Raises ValueError or RecursionError: it is no JSON, or nested too deeply."""
    return simplejson.loads(event)


def too_large(size_bytes: int) -> dict[str, str] | None:
    """The error document for a result of this size. None: it fits."""
    if size_bytes <= MAX_RESPONSE_BYTES:
        return None
    limit = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
    return {"errorMessage": limit, "errorType": "Function.ResponseSizeTooLarge"}
