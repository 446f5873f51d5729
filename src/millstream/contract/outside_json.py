"""Reads JSON that others have written: what producers send, what functions answer. Pure.

JSON is what RFC 8259 says. msgspec is quick and stricter: it refuses half a surrogate pair (which
JavaScript writes where it cuts a string), numbers beyond a double (`1e400`), and integers of some
thousand digits. A text that it refuses is read again by the standard library, so that all parts of
millstream agree on what is JSON and what is not.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

_REFUSED = (msgspec.DecodeError, UnicodeError, RecursionError)

_look_through = msgspec.json.Decoder(msgspec.Raw).decode


class NotJson(ValueError):
    """The text is no JSON, no UTF-8, or is nested more deeply than can be read (about 1,000 levels)."""


def read(text: str | bytes) -> Any:
    """The value in a JSON text. Half surrogates stay in its strings.

    A number that no float can hold is `inf`, and so is an integer of more than 4,300 digits.

    Raises:
        NotJson: it is none.
    """
    try:
        return msgspec.json.decode(text)
    except _REFUSED:
        return _slowly(text)


def check(text: bytes) -> None:
    """Return if a text is JSON; builds no values where that can be avoided.

    Raises:
        NotJson: it is none.
    """
    try:
        _look_through(text)
        if not text.isascii():
            text.decode()  # which msgspec leaves out where it builds nothing
    except UnicodeError as error:
        raise NotJson(str(error)) from error
    except _REFUSED:
        _slowly(text)


def _slowly(text: str | bytes) -> Any:
    try:
        if not isinstance(text, str):
            text = text.decode()
        return json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts, in the interest of time
        return float(digits)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
