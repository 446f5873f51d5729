"""What outlives the process: mappings, leases and cursors, behind the StateStore port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from millstream.contract.records import Checkpoint, Position


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read one partition of one mapping and to move its cursor."""

    mapping: str
    partition: str
    owner: str
    epoch: int  # grows each time the lease is taken; fences a stale owner


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """What a store knows of one partition: who reads it, and how far."""

    partition: str
    owner: str | None  # None: nobody, or its lease has run out
    epoch: int
    position: Position | None  # None: nothing of it was ever resolved
    ended: bool  # read to its end and resolved; never read again
    missing_s: float | None = None  # how long its stream has not listed it. None: it does, or nobody looked
    free_in_s: float | None = field(default=None, compare=False)  # at the earliest. None: free, or unknown


@dataclass(frozen=True, slots=True)
class MappingRow:
    """One event source mapping as declared: what survives a restart."""

    uuid: str
    app: str
    function: str
    kind: str
    source: str
    enabled: bool
    last_modified: float  # Unix seconds
    retired_at: float | None = None  # by the store's clock: since when no file declares it. None: one does


State: TypeAlias = Literal[
    "Creating", "Enabling", "Enabled", "Disabling", "Disabled", "Updating", "Deleting", "Stopped"
]
"""AWS's states of a mapping, and Stopped: its daemon does not run."""


@dataclass(frozen=True, slots=True)
class MappingStatus:
    """How a mapping is doing in one daemon; counters survive its restarts."""

    uuid: str
    state: State
    state_reason: str = ""
    last_result: str = "No records processed"
    updated_at: float = 0.0
    received: int = 0
    filtered: int = 0
    delivered: int = 0  # records that a function took
    returned: int = 0  # records given back to the queue after a failure
    discarded: int = 0  # records given up: to a destination, or dropped
    dropped: int = 0  # of the discarded, those that no destination holds
    invocations: int = 0
    errors: int = 0
    throttles: int = 0
    invoked_records: int = 0  # records sent to the function, repeats included
    failed_records: int = 0  # records of batches that failed, in part or whole
    delivery_failures: int = 0  # invocation records that a destination did not take
    iterator_age_s: float | None = None  # age of the last record of the last batch. None: no stream
    partitions: int | None = None  # partitions that this daemon reads. None: no stream


class StateStore(Protocol):
    """Keeps what must outlive the process. Calls are short; writes are durable when they return.

    `owner` names a daemon from its start to its end. Each call raises StateUnavailable where the store
    cannot be read or written. Leases and announcements run out where they are not renewed for their `ttl_s`
    on a clock that nobody sets: the caller's monotonic one, on which the store has watched them.
    """

    async def succeed(self, before: str, owner: str) -> None:
        """Let `owner` have what a daemon left that has ended: its leases, its statuses, under new epochs."""

    async def put_mapping(self, row: MappingRow) -> MappingRow:
        """Insert, or update by (app, function, kind, source); the stored row, with its first uuid.

        A retired one is retired no more.
        """

    async def mappings(self) -> Sequence[MappingRow]:
        """All of them, retired ones too."""

    async def name_source(self, uuid: str, source: str) -> None:
        """Have a mapping's source called by another name of it; nothing if there is no such mapping."""

    async def retire(self, uuid: str) -> None:
        """Note that no file declares a mapping any more; it keeps uuid and cursors until it is deleted."""

    async def attend(self, owner: str, mappings: Sequence[str], ttl_s: float) -> None:
        """Say that `owner` runs mappings for the next `ttl_s`, in one transaction."""

    async def attendants(self, mapping: str) -> Sequence[str]:
        """Owners that run a mapping now, as they said themselves."""

    async def delete_mapping(self, uuid: str) -> None:
        """Forget a mapping with its statuses, leases and cursors; nothing if there is none."""

    async def put_status(self, owner: str, statuses: Sequence[MappingStatus]) -> None:
        """Write a daemon's newest status of several mappings, in one transaction."""

    async def statuses(self, owner: str) -> Sequence[MappingStatus]:
        """The statuses that this daemon wrote last."""

    async def started_at(self, mapping: str, at: float) -> float:
        """The moment (Unix seconds) at which a mapping was first enabled: `at`, unless one is kept.

        Raises:
            LeaseLost: the mapping was deleted.
        """

    async def adopt(self, mapping: str, identity: str) -> bool:
        """Note which stream a mapping reads. True: it is another one than before, and read anew.

        The cursors of its partitions are dropped then, and their leases are lost, in the same transaction.
        """

    async def announce(self, mapping: str, owner: str, ttl_s: float) -> Sequence[str]:
        """Say that `owner` runs a mapping for the next `ttl_s`; all owners of which that is true.

        With `ttl_s` 0 it runs it no more.
        """

    async def partitions(self, mapping: str) -> Sequence[PartitionRow]:
        """All partitions that were ever taken, and not forgotten."""

    async def take(self, mapping: str, partition: str, owner: str, ttl_s: float) -> Lease | None:
        """A lease that is free, has run out, or is `owner`'s own already, under a new epoch.

        None: another owner holds it, the partition has ended, or the mapping was deleted.
        """

    async def renew(self, leases: Sequence[Lease], ttl_s: float) -> Sequence[Lease]:
        """Hold leases for `ttl_s` from now, in one transaction; those that are still the caller's.

        One that has run out, but was not taken by anybody, is still its owner's.
        """

    async def release(self, lease: Lease, *, ended: bool = False) -> None:
        """Give a lease up at once, for good if the partition has ended; nothing if it is lost already."""

    async def cursor(self, lease: Lease) -> Position | None:
        """The last checkpoint of the lease's partition."""

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Move the cursor.

        Raises:
            LeaseLost: the lease was taken or released since, or the mapping was deleted.
            ValueError: the checkpoint is of another partition than the lease.
        """

    async def note_missing(self, mapping: str, missing: Sequence[str], found: Sequence[str]) -> None:
        """Note which partitions a stream lists no more, and which it lists again, in one transaction."""

    async def forget(self, mapping: str, partitions: Sequence[str]) -> None:
        """Drop what is kept of partitions that the source has not any more; leased ones are passed over."""

    async def aclose(self) -> None: ...
