"""The port of consumer groups: a broker hands partitions to members, and keeps the group's cursors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from millstream.contract.functions import Success
from millstream.contract.records import Checkpoint, Record
from millstream.contract.state import Lease
from millstream.contract.streams import At, Oldest, StreamReader


@dataclass(frozen=True, slots=True)
class Assigned:
    """Partitions that this member reads from now on, beside those that it has."""

    partitions: Sequence[str]
    epoch: int  # of each of their leases; grows with each assignment


@dataclass(frozen=True, slots=True)
class Revoked:
    """Partitions that this member gives up; the group waits for it to call `done`."""

    partitions: Sequence[str]
    within_s: float  # what takes longer is another member's already. 0: they are lost, nothing can be written
    done: Callable[[], None]


Change: TypeAlias = Assigned | Revoked


class Outputs(Protocol):
    """Publishes what functions return in one transaction with the cursor of what they were given."""

    async def take(self, records: Sequence[Record], answer: Success) -> str | None:
        """Hold what a function has returned for a batch until its checkpoint is committed.

        Returns why the answer cannot be published. None: it is held.
        """


@runtime_checkable
class GroupSource(Protocol):
    """One member of a consumer group, opened. Told from a StreamSource by `join`."""

    @property
    def event_source_arn(self) -> str:
        """What the source is called where AWS has an ARN."""

    @property
    def details(self) -> Mapping[str, str]:
        """What a user wants to know of the membership: its group, the client library."""

    @property
    def outputs(self) -> Outputs | None:
        """None: what functions return is not published."""

    async def mark(self) -> float:
        """Where LATEST begins for a mapping that is enabled now: Unix seconds.

        The source keeps the end of each partition, for a `join` that is told to use it.
        """

    async def join(self, start: Oldest | At, *, marked: bool = False) -> None:
        """Become a member. Partitions of which the group has no cursor begin at `start`.

        With `marked` they begin at the ends that `mark` has kept, which become the group's cursors at once.

        Raises:
            SourceUnavailable: no answer now.
            Refused: the source is gone or refuses us.
        """

    async def change(self) -> Change:
        """The next change of what this member reads; waits for it. May be cancelled, and loses none then.

        Raises:
            SourceUnavailable: the membership has ended, and begins anew with another source.
            Refused: the source is gone or refuses us.
        """

    async def reader(self, leases: Sequence[Lease]) -> StreamReader:
        """Reads assigned partitions from the group's cursors on; a page may hold records of several."""

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Move the group's cursor of a partition: soon, and before `done` of its revocation lets it go.

        Raises:
            LeaseLost: the partition is another member's by now.
        """

    async def aclose(self) -> None:
        """Commit what is left and leave the group; its readers are closed before."""
