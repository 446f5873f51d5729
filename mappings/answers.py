"""Reads what functions answer to a batch: which records failed, and a window's state. Pure.

An answer may have six megabytes, and whatever its function likes in them: only the fields that count are
decoded, and the rest is looked through. `outside_json.readable` makes a text of it that can be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from millstream.contract.outside_json import NotJson, read, readable
from millstream.contract.records import Batch
from millstream.contract.streams import plain_item_id

logger = logging.getLogger(__name__)

OBJECTS_PER_RECORD = 20
"""JSON objects for each record of a batch in a list of failures that is read; an entry is two at most."""

IDENTIFIER_BYTES = 4096
"""Largest `itemIdentifier` that is read; one is some hundred digits at most, or a small object."""

SLOWLY_READ_BYTES = 64 * 1024
"""Largest answer that is read slowly where msgspec refuses it: about a millisecond."""

_FIELDS = ("batchItemFailures", "state")
_ABSENT = msgspec.Raw(b"")
_REFUSED = (msgspec.MsgspecError, UnicodeError, RecursionError)


class _Answer(msgspec.Struct, rename="camel"):
    """An answer, its fields left as they came."""

    batch_item_failures: msgspec.Raw = _ABSENT
    state: msgspec.Raw = _ABSENT


class _Failure(msgspec.Struct, rename="camel"):
    """An entry of a list of failures."""

    item_identifier: msgspec.Raw = _ABSENT


_failures = msgspec.json.Decoder(list[_Failure]).decode


def failed_items(batch: Batch, payload: bytes) -> frozenset[str]:
    """Ids of the records that a ReportBatchItemFailures answer names; all of them if it is malformed.

    None failed: null, {}, [], "", or a `batchItemFailures` that is absent, null or empty. All
    failed: not JSON, an identifier that is empty, null, of a wrong key or not in the batch; one
    such entry spoils the list.

    Source: AWS, "Implementing partial batch responses", success and failure conditions.
    """
    named = named_items(batch, payload)
    return frozenset(record.item_id for record in batch.records) if named is None else named


def named_items(
    batch: Batch, payload: bytes, item_id: Callable[[object], str | None] = plain_item_id
) -> frozenset[str] | None:
    """Ids that a ReportBatchItemFailures answer names, by the rules of `failed_items`. None: malformed.

    `item_id` reads an `itemIdentifier`.
    """
    text = payload.strip()
    if text in (b"null", b'""') or (text[:1] == b"[" and text[1:-1].isspace()) or text == b"[]":
        return frozenset()
    answer = _answer(text)
    if answer is None:
        return None
    failures = bytes(answer.batch_item_failures)
    if failures in (b"", b"null"):
        return frozenset()
    if failures[:1] != b"[" or failures.count(b"{") > OBJECTS_PER_RECORD * (len(batch.records) + 1):
        return None
    identifiers = _identifiers(failures)
    ids = frozenset(record.item_id for record in batch.records)
    return None if identifiers is None else _named(identifiers, ids, item_id)


def window_state(payload: bytes) -> bytes | None:
    """The state that a function hands on in a tumbling window, as JSON. None: the answer has none.

    Source: AWS, "Implementing stateful Kinesis Data Streams processing": a state is required.
    """
    answer = _answer(payload.strip())
    state = b"" if answer is None else bytes(answer.state)
    return state if state[:1] == b"{" else None


async def plain(payload: bytes) -> bytes:
    """An answer of any size and kind, as the functions above can read it; what is no JSON stays as it is."""
    with suppress(NotJson):
        return await readable(payload)
    return payload


class MalformedAnswers:
    """Says in the log that a function's answers are malformed: its user sees records come again, no more."""

    def __init__(self, mapping: str, item_id: Callable[[object], str | None] = plain_item_id) -> None:
        self._mapping = mapping
        self._item_id = item_id
        self._said = False

    def look(self, batch: Batch, payload: bytes, request_id: str, *, failed: bool) -> None:
        """Look at an answer by which a whole batch `failed`; say so once, until one is right again."""
        malformed = failed and named_items(batch, payload, self._item_id) is None
        if malformed and not self._said:
            extra = {"mapping": self._mapping, "request": request_id, "records": len(batch.records)}
            logger.warning("batchItemFailures malformed, or not of the batch: all of it failed", extra=extra)
        self._said = malformed


def _answer(text: bytes) -> _Answer | None:
    """The fields of an answer. None: it is no object."""
    if text[:1] != b"{":
        return None
    try:
        return msgspec.json.decode(text, type=_Answer)
    except _REFUSED:
        return _read_slowly(text) if len(text) <= SLOWLY_READ_BYTES else None


def _read_slowly(text: bytes) -> _Answer | None:
    try:
        answer = read(text)
    except NotJson:
        return None
    raw = [json.dumps(answer[name]).encode() if name in answer else b"" for name in _FIELDS]
    return _Answer(*map(msgspec.Raw, raw))


def _identifiers(failures: bytes) -> list[Any] | None:
    """The identifiers in a list of failures. None: an entry is no object, or has none that can be read.

    The first such entry ends it: nothing is built of the millions that may follow.
    """
    try:
        raw = [bytes(failure.item_identifier) for failure in _failures(failures)]
        if max(map(len, raw), default=0) > IDENTIFIER_BYTES:
            return None
        return [read(identifier) for identifier in raw]
    except msgspec.ValidationError:
        return None
    except (*_REFUSED, NotJson):
        return _identifiers_slowly(failures) if len(failures) <= SLOWLY_READ_BYTES else None


def _identifiers_slowly(failures: bytes) -> list[Any] | None:
    try:
        entries = read(failures)
    except NotJson:
        return None
    objects = all(isinstance(entry, dict) for entry in entries)
    return [entry.get("itemIdentifier") for entry in entries] if objects else None


def _named(
    identifiers: list[Any], ids: frozenset[str], item_id: Callable[[object], str | None]
) -> frozenset[str] | None:
    named = [item_id(identifier) for identifier in identifiers]
    known = frozenset(name for name in named if name is not None and name in ids)
    return known if all(name in known for name in named) else None
