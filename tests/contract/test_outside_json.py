"""JSON of others: what counts as JSON, and what comes of it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.outside_json import NotJson, check, read

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
    check(text.encode())


@pytest.mark.parametrize(("text", "value"), STRICTER_THAN_THE_RFC)
def test_json_that_msgspec_refuses_is_json(text: bytes, value: object) -> None:
    assert read(text) == value
    assert read(text.decode()) == value
    check(text)


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:12]))
def test_what_is_no_json_says_so(text: bytes) -> None:
    with pytest.raises(NotJson):
        read(text)
    with pytest.raises(NotJson):
        check(text)


@given(st.binary())
def test_any_bytes_are_json_to_both_or_to_neither(text: bytes) -> None:
    answers = []
    for reads in (read, check):
        try:
            reads(text)
            answers.append(True)
        except NotJson:
            answers.append(False)
    assert answers[0] == answers[1]
