"""Reads JSON that others have written: what producers send, what functions answer. Pure.

JSON is what RFC 8259 says. msgspec is quick and stricter: it refuses half a surrogate pair (which
JavaScript writes where it cuts a string), numbers beyond a double (`1e400`), and integers of some
thousand digits. A text that it refuses is read again by the standard library, so that all parts of
millstream agree on what is JSON and what is not.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import msgspec

_REFUSED = (msgspec.DecodeError, UnicodeError, RecursionError)

HALF = b"\\ud"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")

_TURN = 2000
"""Escapes that are looked at before others have their turn."""

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


async def readable(text: bytes) -> bytes:
    """A JSON text that msgspec reads, of any size and kind: the text itself, or one that differs a little.

    What differs are halves of surrogate pairs, for each of which U+FFFD stands. Takes milliseconds at a
    time, and lets others run in between: functions decide how many halves there are.

    Raises:
        NotJson: it is none.
    """
    try:
        _look_through(text)
    except _REFUSED as refused:
        if HALF not in text.lower():
            raise NotJson(str(refused)) from refused
        text = await _with_whole_characters(text)
        try:
            _look_through(text)
        except _REFUSED as again:
            raise NotJson(str(again)) from again
    try:
        if not text.isascii():
            text.decode()  # which msgspec leaves out where it builds nothing
    except UnicodeError as error:
        raise NotJson(str(error)) from error
    return text


async def _with_whole_characters(text: bytes) -> bytes:
    whole, place, found = bytearray(text), 0, 0
    while (escape := _SURROGATE.search(whole, place)) is not None:
        start = escape.start()
        before = whole[place:start]
        slashes = len(before) - len(before.rstrip(b"\\"))
        if slashes % 2:  # a backslash that is escaped itself, and a plain "ud8…" behind it
            place = start + 2
        elif pair := _PAIR.match(whole, start):
            place = pair.end()
        else:
            whole[start : start + 6] = b"\\ufffd"
            place = start + 6
        found += 1
        if found % _TURN == 0:
            await asyncio.sleep(0)
    return bytes(whole)


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
