"""What we raise.

MillstreamError
├── InvalidConfiguration    what a user declared is wrong; never retried, says every problem at once
├── Refused                 a source or destination refuses us now, or is not there; retried at long intervals
├── SourceUnavailable       a source did not answer; the supervisor retries
├── PartitionGone           a partition is not in its stream any more; it is given up, loudly
├── DestinationUnavailable  a destination did not take a record; the record is kept
│   └── DocumentTooLarge    what it was given is larger than it takes; something smaller may fit
├── SandboxUnavailable      this host, as it is, cannot isolate functions
├── StateUnavailable        the state store cannot be read or written
└── LeaseLost               another daemon owns the partition; stop, write nothing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class MillstreamError(Exception):
    """Base of all errors that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what a user declared.

    `where` is the place in the user's words (`app.py:12 Sqs("orders")`, empty if it is
    plain), `field` the option's name. Neither may hold a secret.
    """

    where: str
    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.field}: wanted {self.wanted}, found {self.found}"


class InvalidConfiguration(MillstreamError):
    """What a user declared cannot work; `problems` has every reason, one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Refused(MillstreamError):
    """A source or a destination refuses us now, or is not there: rights, credentials, a queue, a topic.

    Somebody can mend that without touching the declaration, so it is tried again, at intervals that
    grow to five minutes. The message names what was refused and why, and holds no secret.
    """


class SourceUnavailable(MillstreamError):
    """A source did not answer, or answered with a fault of its own."""


class PartitionGone(MillstreamError):
    """A reader's partition is not in its stream any more; what was left of it has been trimmed."""


class DestinationUnavailable(MillstreamError):
    """A destination did not take a record; whoever holds the record keeps it."""


class DocumentTooLarge(DestinationUnavailable):
    """A destination did not take a document for its size; its `limit_bytes` may be smaller from now on."""


class SandboxUnavailable(MillstreamError):
    """This host, as it is, cannot isolate functions; the message names the ways out."""


class StateUnavailable(MillstreamError):
    """The state store cannot be read or written: read-only, full, or of a newer version."""


class LeaseLost(MillstreamError):
    """Another daemon owns the partition now."""
