"""What a Kafka client library must do for us, and how one is chosen."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from millstream.contract.groups import Outputs
from millstream.contract.records import Record
from millstream.kafka.access import Access
from millstream.kafka.libraries import CONFLUENT
from millstream.triggers.kafka_records import RecordMaker

MARGIN_S = 1.0
"""What a client waits longer for revoked partitions than their runner may take."""

CALL_S = 10.0
"""How long a call may take, other than a poll."""

NOT_COMMITTED = "offsets not committed, their records are read again"

METADATA_S = 30.0
"""Between two looks for new partitions."""

LEAST_POLL_INTERVAL_S = 300.0
"""What the libraries have by default."""

LOOK_S = 2.0
"""How long a look at the cluster may take that is made again soon."""

MOST_PREFETCH_BYTES = 16 * 1024 * 1024
LEAST_PREFETCH_BYTES = 1024 * 1024
"""What a client may fetch ahead, all partitions of a mapping together."""

_IDENTITY = "topic_id="


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """A member of a consumer group."""

    topic: str
    group_id: str
    instance_id: str | None  # group.instance.id: a restart within the session is no rebalance
    session_timeout_s: float
    drain_s: float  # how long a revoked partition may take to be finished
    read_committed: bool
    prefetch_bytes: int = MOST_PREFETCH_BYTES  # what the client may fetch ahead, all partitions together
    buffer_bytes: int = MOST_PREFETCH_BYTES  # what may wait for the mapping, all partitions together


@dataclass(frozen=True, slots=True)
class Cursor:
    """A group's offset of one partition, and the topic that it was written for."""

    offset: int
    identity: str | None = None  # None: whoever wrote it did not say


def prefetch_bytes(buffer_bytes: int) -> int:
    """Return how much of what a source's client may hold is for fetching ahead.

    A quarter waits in the library, a quarter is on its way, and half waits behind the polling thread.
    """
    return min(max(buffer_bytes // 4, LEAST_PREFETCH_BYTES), MOST_PREFETCH_BYTES)


def buffered_bytes(buffer_bytes: int) -> int:
    """Return how much of it may wait for the mapping; the records of one poll may come on top of that."""
    return buffer_bytes // 4


def poll_interval_s(session_timeout_s: float) -> float:
    """Return how long a poll may take: it waits up to a session for revoked partitions."""
    return max(2 * session_timeout_s, LEAST_POLL_INTERVAL_S)


def written_for(identity: str | None) -> str:
    """What is committed beside an offset, to tell a topic from a later one of its name."""
    return f"{_IDENTITY}{identity}" if identity else ""


def identity_in(metadata: str | None) -> str | None:
    """The topic that a committed offset is of. None: another tool wrote it, or it does not say."""
    text = (metadata or "").rstrip("\0")  # which confluent-kafka writes behind it
    return text.removeprefix(_IDENTITY) if text.startswith(_IDENTITY) else None


class Listener(Protocol):
    """Told of rebalances, in a thread of the client's."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The offset at which each of them is to begin. May ask the client."""

    def revoking(self, partitions: Sequence[int]) -> threading.Event:
        """Have partitions finished. The event says that they are; the client waits `drain_s` at most."""

    @property
    def identity(self) -> str | None:
        """The topic that is read."""

    def offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Return the offsets that are to be committed of these partitions now."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Note that these partitions are another member's from now on."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Note that these partitions are another member's already."""

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The group has these offsets now."""


class Transactions(Outputs, Protocol):
    """Publishes outputs and offsets together, each partition in transactions of its own."""

    def belong(self, member: Any, identity: str | None) -> None:
        """Take it that the group knows us as `member` now, and which topic its offsets are of.

        Called by the polling thread after each poll.
        """

    def begin(self, partitions: Sequence[int]) -> None:
        """End what other members may have left open; from then on the group's offsets stand.

        Called by the polling thread, before it asks for the offsets. Raises SourceUnavailable.
        """

    def end(self, partition: int) -> None:
        """The partition is another member's; called by the client's thread."""

    def forget(self, partition: int) -> bool:
        """Drop what is held, as its records are read again. False: nobody knows what was committed."""

    async def commit(self, partition: int, position: int) -> None:
        """Publish what is held of the records up to `position`, with the offset behind it.

        Raises:
            StateUnavailable: it was undone, and may be tried again.
            LeaseLost: another member has the partition.
            SourceUnavailable: nobody knows whether it was committed.
        """

    async def aclose(self) -> None: ...


class RecordCheck(Protocol):
    """Looks at records before the mapping has them."""

    async def checked(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return as many records, in order; some of them may be refused.

        Raises SourceUnavailable or Refused where they cannot be looked at now, and is asked again then.
        """

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought."""

    records: Mapping[int, list[Record]]  # by partition, in order
    out_of_range: Sequence[int] = ()  # partitions whose next offset the cluster does not have
    ends: Mapping[int, int] = field(default_factory=dict)  # all before these offsets was brought by now
    unreadable: Mapping[int, str] = field(
        default_factory=dict
    )  # why a partition's next record is not brought


class Client(Protocol):
    """One consumer, used by one thread at a time.

    Every call raises SourceUnavailable where no broker answers, and Refused where the cluster refuses
    us or has no such topic.
    """

    name: str

    def partitions(self) -> Sequence[int]:
        """Return all partitions of the topic."""

    def identity(self) -> str | None:
        """What tells the topic from an earlier one of its name. None: the cluster does not say."""

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Cursor]:
        """The group's cursors; a partition without one is left out."""

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """The oldest offset, and the one that follows the newest."""

    def at(self, partitions: Sequence[int], timestamp_s: float) -> Mapping[int, int]:
        """Offsets of the first records at or after a time; of a partition without one, where it ends."""

    def subscribe(self, listener: Listener) -> None:
        """Join the group; the listener is called from `poll`."""

    def poll(self, limit: int, wait_s: float) -> Polled:
        """Up to about `limit` records; nothing after `wait_s` without any.

        After a call that raised, nobody knows what it had taken: all is to be sought again.
        """

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Go on elsewhere with partitions that are assigned."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Bring no more records of them until `resume`."""

    def resume(self, partitions: Sequence[int]) -> None: ...

    def commit(self, offsets: Mapping[int, int], identity: str | None, *, wait: bool) -> None:
        """Move the group's offsets, each the one to read next; the listener is told once they are written.

        `identity` is that of the topic that was read.
        """

    def metadata(self) -> Any:
        """This member as the group knows it now, for a transaction."""

    def check(self) -> None:
        """Ask the cluster something cheap."""

    def close(self) -> None:
        """Leave the group, a static member excepted."""


def new_client(name: str, settings: GroupSettings, access: Access, maker: RecordMaker) -> Client:
    """A client of that library, not yet connected."""
    if name == CONFLUENT:
        from millstream.triggers.kafka_confluent import ConfluentClient

        return ConfluentClient(settings, access, maker)
    from millstream.triggers.kafka_python import KafkaPythonClient

    return KafkaPythonClient(settings, access, maker)
