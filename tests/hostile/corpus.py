"""Odd records: what a source of any kind may be sent by a producer in another language, or by a hostile one.

A source takes of an odd record what it has a place for. What only one kind of source can be sent stands in
a module of its own beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Odd:
    """One odd record. `body` may be anything; the rest is None or empty where nothing is odd about it."""

    name: str
    body: bytes = b"odd"
    key: bytes | None = None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    at_ms: int | None = None  # when it was made, by its producer

    @property
    def text(self) -> str | None:
        """The body as text. None: it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None


BODIES = (
    Odd("empty", b""),
    Odd("one blank", b" "),
    Odd("NUL", b"a\0b"),
    Odd("not UTF-8", b"caf\xe9 \xff\xfe"),
    Odd("byte order mark", b'\xef\xbb\xbf{"a":1}'),
    Odd("control characters", bytes(range(1, 32))),
    Odd("what XML has not", "\ufffe\uffff".encode()),
    Odd("half a character in JSON", b'{"note":"\\ud83d"}'),
    Odd("a number that no float holds", b'{"n":1e400}'),
    Odd("a number of many digits", b'{"n":' + b"9" * 5000 + b"}"),
    Odd("deep", b"[" * 5000 + b"]" * 5000),
    Odd("many elements", b"[" + b",".join([b"[1]"] * 20_000) + b"]"),
    Odd("not JSON, but nearly", b'{"a":1,}'),
    Odd("words that JavaScript knows", b"[NaN,Infinity,-Infinity]"),
    Odd("what looks like an answer", b'{"batchItemFailures":[{"itemIdentifier":"x"}]}'),
)

KEYS = (
    Odd("empty key", key=b""),
    Odd("key that is not UTF-8", key=b"\xff\xfe"),
    Odd("key with NUL", key=b"a\0b"),
    Odd("long key", key=b"k" * 256),
)

HEADERS = (
    Odd("header name that is not UTF-8", headers=((b"caf\xe9", b"v"),)),
    Odd("header value that is not UTF-8", headers=((b"h", b"\xff\xfe"),)),
    Odd("header without a value", headers=((b"h", None),)),
    Odd("empty header name", headers=((b"", b"v"),)),
    Odd("one header name twice", headers=((b"h", b"1"), (b"h", b"2"))),
    Odd("many headers", headers=tuple((b"h%d" % number, b"v") for number in range(500))),
    Odd("header name with NUL", headers=((b"a\0b", b"v"),)),
)

TIMES = (
    Odd("made at no time", at_ms=-1),
    Odd("made at the beginning of time", at_ms=0),
    Odd("made in the year 57000", at_ms=1_736_000_000_000_000),
    Odd("made at the end of time", at_ms=(1 << 63) - 1),
)

CORPUS = (*BODIES, *KEYS, *HEADERS, *TIMES)
