"""Shows texts that others have written, in logs and on terminals, which obey none of them. Pure."""

from __future__ import annotations

import re

SHOWN_CHARACTERS = 256
"""Longest text of others in a line of a log."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1; line and paragraph separators; what turns the direction of a text; halves of characters.

Source: Unicode, UAX #9 and UTS #55, "Bidirectional reordering".
"""

_BETWEEN = {"\t": "\t", "\n": "\n", "\r": " "}
"""Control characters that JSON has outside of strings, and as they are shown."""


def plain(text: str, keep: str = "") -> str:
    """The text with its control characters as escapes (`\\x1b`, `\\u202e`), those in `keep` excepted."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def plain_json(text: str) -> str:
    """A JSON text whose strings have them as JSON's own escapes, and which has no carriage return."""
    return _CONTROLS.sub(lambda found: _BETWEEN.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, most_characters: int = SHOWN_CHARACTERS) -> str:
    """The text, or its beginning with an ellipsis if it is longer."""
    return text if len(text) <= most_characters else f"{text[: most_characters - 1]}…"


def shown(text: str, most_characters: int = SHOWN_CHARACTERS) -> str:
    """Make it `plain`, on one line and no longer than that."""
    return shortened(plain(text[: most_characters + 1]), most_characters)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
