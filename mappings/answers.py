"""Reads what functions answer to a batch: which records failed, and a window's state. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millstream.contract.records import Batch
from millstream.contract.streams import plain_item_id


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
    try:
        answer = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if answer is None or answer in ("", [], {}):
        return frozenset()
    if not isinstance(answer, dict):
        return None
    failures = answer.get("batchItemFailures")
    if failures is None:
        return frozenset()
    if not isinstance(failures, list):
        return None
    return _named(failures, frozenset(record.item_id for record in batch.records), item_id)


class _Answer(msgspec.Struct):
    """An answer in a tumbling window, its state left as it came."""

    state: msgspec.Raw


def window_state(payload: bytes) -> bytes | None:
    """The state that a function hands on in a tumbling window, as JSON. None: the answer has none.

    Source: AWS, "Implementing stateful Kinesis Data Streams processing": a state is required.
    """
    try:
        state = bytes(msgspec.json.decode(payload, type=_Answer).state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return state if state.lstrip()[:1] == b"{" else None


def _named(
    failures: list[Any], ids: frozenset[str], item_id: Callable[[object], str | None]
) -> frozenset[str] | None:
    named = set()
    for failure in failures:
        name = item_id(failure.get("itemIdentifier")) if isinstance(failure, dict) else None
        if name is None or name not in ids:
            return None
        named.add(name)
    return frozenset(named)
