"""Texts of others as logs and terminals show them."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.plain_text import SHOWN_CHARACTERS, plain, plain_json, shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Ordinary.Error", "Ordinary.Error"),
        ("größer → 日本 👍", "größer → 日本 👍"),
        ("a\n23:00:00.000 INFO", r"a\x0a23:00:00.000 INFO"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\u202etxt.exe\u2066", r"\u202etxt.exe\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, told: str) -> None:
    assert plain(text) == told


@given(st.text())
def test_no_control_character_and_no_long_text_is_shown(text: str) -> None:
    told = shown(text * 100)
    assert len(told) <= SHOWN_CHARACTERS
    assert not [each for each in told if unicodedata.category(each) in ("Cc", "Zl", "Zp", "Cs")]


def test_what_is_to_be_kept_is_kept() -> None:
    assert plain("a\tb\n\x1b", "\t\n") == "a\tb\n\\x1b"


@given(st.dictionaries(st.text(), st.text()), st.booleans())
def test_json_means_the_same_and_holds_nothing_that_a_terminal_obeys(
    value: dict[str, str], wide: bool
) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2 if wide else None).replace("\n", "\r\n")
    told = plain_json(text)
    assert json.loads(told) == value
    assert plain(told, "\t\n") == told
