"""What happens in one environment, told to the extensions that subscribed to it.

Subscribers hear of the init phase from its beginning: its events are kept until it is over.
Source: AWS, "Lambda Telemetry API Event schema reference".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from millstream.contract.ports import LogSink
from millstream.runtime.api.roster import Extension
from millstream.runtime.delivery import Buffering, Destination, MakeSocket, Room, Subscriber
from millstream.runtime.link import UNREADABLE
from millstream.runtime.platform import instant

Source: TypeAlias = Literal["platform", "function", "extension"]

EARLY_EVENTS, EARLY_BYTES = 1000, 256 * 1024
"""Kept of an init phase, for those that subscribe within it."""

INIT = ("initStart", "initRuntimeDone", "initReport", "telemetrySubscription")
"""Events that the Logs API does not have."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an extension subscribed to."""

    destination: Destination
    buffering: Buffering
    types: tuple[Source, ...]
    objects: bool = True  # lines that are JSON objects come as such, with log format JSON
    logs_api: bool = False


@dataclass(frozen=True, slots=True)
class _Event:
    source: Source
    kind: str
    at: float
    record: Any


class Telemetry:
    """Implements Observer."""

    def __init__(self, log_format: str) -> None:
        self._json = log_format == "JSON"
        self._room = Room()
        self._subscribers: dict[str, tuple[Wanted, Subscriber]] = {}  # by identifier
        self._early: list[_Event] | None = []  # None: the init phase is over
        self._early_bytes = 0
        self.make_socket: MakeSocket | None = None

    @property
    def listens(self) -> bool:
        return self._early is not None or bool(self._subscribers)

    @property
    def open(self) -> bool:
        """True while an extension may subscribe."""
        return self._early is not None

    def restart(self) -> None:
        """A new init phase begins: nobody has subscribed."""
        self.close()
        self._early, self._early_bytes = [], 0

    def settle(self) -> None:
        """The init phase is over: nobody may subscribe any more."""
        self._early = None

    def subscribe(self, extension: Extension, wanted: Wanted) -> None:
        """Tell an extension of all that it wants, from the start of the init phase on."""
        if self.make_socket is None or self._early is None:
            return
        before = self._subscribers.pop(extension.identifier, None)
        if before is not None:
            before[1].close()
        subscriber = Subscriber(wanted.destination, wanted.buffering, self.make_socket, self._room)
        self._subscribers[extension.identifier] = wanted, subscriber
        for event in self._early:
            self._give(wanted, subscriber, event)

    def platform(self, kind: str, record: Mapping[str, Any]) -> None:
        self._emit("platform", kind, record)

    def line(self, source: Source, text: str) -> None:
        """Something that the function, or an extension, has written."""
        self._emit(source, "", text)

    def flush(self) -> None:
        """Send what waits, for the end is near."""
        for _, subscriber in self._subscribers.values():
            subscriber.flush()

    def close(self) -> None:
        """Forget all subscribers."""
        for _, subscriber in self._subscribers.values():
            subscriber.close()
        self._subscribers.clear()

    def _emit(self, source: Source, kind: str, record: Any) -> None:
        if not self.listens:
            return
        event = _Event(source, kind, time.time(), record)
        if self._early is not None:
            self._early_bytes += len(record)
            if len(self._early) < EARLY_EVENTS and self._early_bytes <= EARLY_BYTES:
                self._early.append(event)
        for wanted, subscriber in self._subscribers.values():
            self._give(wanted, subscriber, event)

    def _give(self, wanted: Wanted, subscriber: Subscriber, event: _Event) -> None:
        if event.source not in wanted.types:
            return
        if event.source != "platform":
            as_object = self._json and wanted.objects and _is_object(event.record)
            record = msgspec.Raw(event.record.encode()) if as_object else event.record
            subscriber.put(_encoded(event.at, event.source, record))
        elif not wanted.logs_api:
            subscriber.put(_encoded(event.at, f"platform.{event.kind}", event.record))
        elif event.kind not in INIT:
            if event.kind == "report":
                end = {"requestId": event.record["requestId"]}
                subscriber.put(_encoded(event.at, "platform.end", end))
            subscriber.put(_encoded(event.at, f"platform.{event.kind}", event.record))


class Tap:
    """Implements LogSink: lines go to a log, and to telemetry."""

    def __init__(self, log: LogSink, telemetry: Telemetry, source: Source) -> None:
        self._log = log
        self._telemetry = telemetry
        self._source = source

    def write(self, stream: str, text: str) -> None:
        self._log.write(stream, text)
        if self._telemetry.listens:
            self._telemetry.line(self._source, text)


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return False
    return True


def _encoded(at: float, kind: str, record: Any) -> bytes:
    return msgspec.json.encode({"time": instant(at), "type": kind, "record": record})
