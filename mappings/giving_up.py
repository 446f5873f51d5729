"""Hands records that are given up to a destination, in the fullest form that it takes.

WHOLE ── too large ──► halves, each by itself, or BARE ── too large, or cannot be made ──► LEAST

Whatever the records hold, one of the forms can be made, and the destination alone decides whether they
are taken: a fault on the way never sends a record that is given up back to the function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge
from millstream.contract.ports import Destination, InvocationRecord, JsonObject, Observer
from millstream.contract.records import DestinationReceipt, Record

logger = logging.getLogger(__name__)


class Form(Enum):
    """A measure of what a document tells of records."""

    WHOLE = "whole"  # with the event
    BARE = "bare"  # which records they were, by the trigger's own words
    LEAST = "least"  # which records they were, by partition and position


@dataclass(frozen=True, slots=True)
class Step:
    """One form to try, and whether halves of the records are tried in it before the next form is."""

    form: Form
    halves: bool = False


@dataclass(frozen=True, slots=True)
class Handed:
    """The outcome of giving records up."""

    taken: tuple[Record, ...]
    receipt: DestinationReceipt | None  # of those that were taken
    left: tuple[Record, ...] = ()


Make: TypeAlias = Callable[[tuple[Record, ...], Form, str | None], InvocationRecord]
"""Makes the document of records in a form; the text says why what a fuller form has was left out."""


class Handover:
    """Gives documents of one mapping to one destination."""

    def __init__(self, mapping: str, destination: Destination, observer: Observer) -> None:
        self._mapping = mapping
        self._destination = destination
        self._observer = observer

    async def hand_over(self, records: tuple[Record, ...], steps: Sequence[Step], make: Make) -> Handed:
        """Give records up in the first form that the destination takes; halves keep their order."""
        omitted: str | None = None
        for step in steps:
            document = self._made(records, step.form, omitted, make)
            if document is None:
                omitted = "it could not be made, as the daemon's log says"
                continue
            try:
                receipt = await self._sent(document)
            except DocumentTooLarge as too_large:
                omitted = str(too_large)
            else:
                return Handed((), None, records) if receipt is None else Handed(records, receipt)
            if step.halves and len(records) > 1:
                middle = len(records) // 2
                first = await self.hand_over(records[:middle], steps, make)
                second = await self.hand_over(records[middle:], steps, make)
                receipt = second.receipt or first.receipt
                return Handed(first.taken + second.taken, receipt, first.left + second.left)
        why = f"no document is small enough: {omitted}"
        self._observer.delivery_failed(self._mapping, self._destination.name, why)
        return Handed((), None, records)

    async def send(self, document: InvocationRecord) -> DestinationReceipt | None:
        """The receipt of one document. None: it was not taken, which the observer is told."""
        try:
            return await self._sent(document)
        except DocumentTooLarge as too_large:
            self._observer.delivery_failed(self._mapping, self._destination.name, str(too_large))
            return None

    async def _sent(self, document: InvocationRecord) -> DestinationReceipt | None:
        name, limit = self._destination.name, self._destination.limit_bytes
        if limit is not None and document.size_bytes > limit:
            raise DocumentTooLarge(f"{name} takes {limit} bytes, not {document.size_bytes}")
        try:
            return await self._destination.deliver(document)
        except DocumentTooLarge:
            raise
        except DestinationUnavailable as unavailable:
            why = str(unavailable)
        except Exception as fault:
            logger.exception("destination failed", extra={"mapping": self._mapping, "destination": name})
            why = f"{type(fault).__name__}, see the daemon's log"
        self._observer.delivery_failed(self._mapping, name, why)
        return None

    def _made(
        self, records: tuple[Record, ...], form: Form, omitted: str | None, make: Make
    ) -> InvocationRecord | None:
        try:
            return make(records, form, omitted)
        except Exception:
            extra = {"mapping": self._mapping, "partition": records[0].partition, "form": form.value}
            logger.exception("invocation record could not be made", extra=extra)
            return None


def least_details(records: Sequence[Record]) -> JsonObject:
    """Return what can be told of any records, whatever is in them."""
    first, last = records[0], records[-1]
    about = {"partition": first.partition, "firstPosition": first.position, "lastPosition": last.position}
    return {"BatchInfo": {"batchSize": len(records), **about}}
