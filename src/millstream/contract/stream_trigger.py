"""The port of what declares a mapping on a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from millstream.contract.functions import FunctionSpec
from millstream.contract.groups import GroupSource
from millstream.contract.ports import BatchLimits, Capabilities, FilterRules, Host, JsonObject
from millstream.contract.records import Record
from millstream.contract.streams import StartingPosition, StreamPolicy, StreamSource


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """One record's part of an invocation record that is about it alone."""

    details: JsonObject  # `{"…BatchInfo": {…}}`
    key: bytes | None  # as the record had it at its source. None: it had none


@runtime_checkable
class TellsSingly(Protocol):
    """What a stream's trigger has beside its port, where its records can be given up one document each."""

    def record_failure(self, record: Record) -> RecordFailure:
        """What an invocation record tells of one record. May be costly: the record's event is read again."""


@runtime_checkable
class StreamTrigger(Protocol):
    """The declared source of one mapping on a stream. Told from a queue's by `starting_position`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def filter_rules(self) -> FilterRules: ...

    @property
    def limits(self) -> BatchLimits: ...

    @property
    def policy(self) -> StreamPolicy: ...

    @property
    def starting_position(self) -> StartingPosition: ...

    @property
    def source(self) -> str:
        """The source in a user's words, as `millstream mappings` shows it: a name or an ARN."""

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Check the options of a declaration, without a network.

        Raises:
            InvalidConfiguration: with every problem; `where` is left empty for the caller to fill.
        """

    async def open(self, host: Host, function: FunctionSpec) -> StreamSource | GroupSource:
        """Find the stream and check what only it knows.

        Raises:
            InvalidConfiguration: the stream does not fit the declaration.
            Refused: there is no such stream, or it refuses us.
            SourceUnavailable: it does not answer now.
        """

    def envelope(self, records: Sequence[Record]) -> bytes:
        """The event for the function, from the records' own bytes joined once."""

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """The part of an invocation record that tells which records failed: `{"…BatchInfo": {…}}`."""
