"""JSON of others: what counts as JSON, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.outside_json import NotJson, read, readable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)

STRICTER_THAN_THE_RFC = [
    (b'{"note":"\\ud83d"}', {"note": "\ud83d"}),
    (b'["\\udc00\\ud800"]', ["\udc00\ud800"]),
    (b'{"n":1e400}', {"n": math.inf}),
    (b"-1e400", -math.inf),
    (b"9" * 5000, math.inf),
    (b"1" * 400, int("1" * 400)),
]

NO_JSON = [
    b"",
    b"nul",
    b"NaN",
    b"[Infinity]",
    b'{"a":1}x',
    b'{"a":1,}',
    b'"\xff"',
    b'{"a":"\x01"}',
    b"\xef\xbb\xbf",
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
]


@given(JSON)
def test_what_the_standard_library_writes_is_read_as_it_was(value: object) -> None:
    text = json.dumps(value)
    assert read(text) == read(text.encode()) == value
    assert asyncio.run(readable(text.encode())) == text.encode()


@pytest.mark.parametrize(("text", "value"), STRICTER_THAN_THE_RFC)
def test_json_that_msgspec_refuses_is_json(text: bytes, value: object) -> None:
    assert read(text) == value
    assert read(text.decode()) == value
    msgspec.json.Decoder(msgspec.Raw).decode(asyncio.run(readable(text)))


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:12]))
def test_what_is_no_json_says_so(text: bytes) -> None:
    with pytest.raises(NotJson):
        read(text)
    with pytest.raises(NotJson):
        asyncio.run(readable(text))


def answer(reads: Callable[[bytes], Any], text: bytes) -> bool:
    try:
        reads(text)
    except NotJson:
        return False
    return True


@given(st.binary())
def test_any_bytes_are_json_to_both_or_to_neither(text: bytes) -> None:
    assert answer(read, text) == answer(lambda text: asyncio.run(readable(text)), text)


PIECES = ["\\ud83d", "\\ude00", "\\uD83D\\uDE00", "\\\\", "\\n", '\\"', "ud83d", "\\u0041", "x", "é"]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_only_halves_of_pairs_are_replaced(pieces: list[str]) -> None:
    text = f'["{"".join(pieces)}"]'.encode()
    (value,) = json.loads(text)
    whole = "".join("\ufffd" if 0xD800 <= ord(character) < 0xE000 else character for character in value)
    assert msgspec.json.decode(asyncio.run(readable(text))) == [whole]


async def test_others_have_their_turn_while_a_text_of_nothing_but_halves_is_read() -> None:
    text, turns = b'["' + b"\\ud83d" * 100_000 + b'"]', 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        beside = group.create_task(others())
        await readable(text)
        beside.cancel()
    assert turns >= 40
