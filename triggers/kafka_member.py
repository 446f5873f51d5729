"""One member of a consumer group: the thread that polls, and what it hands over to the event loop.

      thread                                   │ event loop
join ── poll ── room? ── records ──► buffers ──┼──► readers
          ├── assigned, revoked ──► changes ───┼──► the mapping's runner ── done ──┐
          └── commit, each second ◄── offsets ─┼─── checkpoints                    │
                      revoked: waits ◄─────────┼───────────────────────────────────┘
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from millstream.contract.errors import InvalidConfiguration, LeaseLost, SourceUnavailable
from millstream.contract.groups import Assigned, Change, Revoked
from millstream.contract.records import Record
from millstream.contract.streams import At, Oldest
from millstream.triggers.kafka_client import NOT_COMMITTED, Client, Polled, Transactions

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How long a poll waits for records: how long a stop takes to be seen."""

POLL_RECORDS = 1000

COMMIT_S = 1.0
"""Between two commits while a partition is read on."""

CHECK_S = 5.0
"""How long nothing may come before the cluster is asked whether it is there."""

FULL_S = 0.05
"""How long the thread waits for a full buffer before it has the client pass over that partition."""

BUFFER_RECORDS = 2_000
BUFFER_BYTES = 4 * 1024 * 1024
"""What may wait of one partition; its runner holds more by itself."""


class _Buffer:
    """What waits of one assigned partition."""

    __slots__ = ("bytes", "epoch", "next", "paused", "records", "seek", "taken")

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self.next = start  # the offset at which a new reader begins
        self.taken = start  # the one behind what the reader has
        self.seek: int | None = None  # where the client must go on. None: where it is
        self.records: deque[Record] = deque()
        self.bytes = 0
        self.paused = False

    @property
    def full(self) -> bool:
        return len(self.records) >= BUFFER_RECORDS or self.bytes >= BUFFER_BYTES

    def clear(self) -> None:
        self.records.clear()
        self.bytes = 0


class Member:
    """Implements the client's Listener. Made, then used by its own thread and the event loop at once.

    `tell` is called from the thread whenever there is something to `take` or a change; `name` makes a
    partition's id of its number.
    """

    def __init__(
        self,
        client: Client,
        start: Oldest | At,
        drain_s: float,
        name: Callable[[int], str],
        tell: Callable[[], None],
        transactions: Transactions | None = None,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._name = name
        self._start = start
        self._drain_s = drain_s
        self._tell = tell
        self.over = threading.Event()  # the thread has left the group
        self._lock = threading.Condition()
        self._parts: dict[int, _Buffer] = {}
        self._changes: deque[Change | BaseException] = deque()
        self._offsets: dict[int, int] = {}  # to commit
        self._epoch = 0
        self._closing = False
        self._fault: SourceUnavailable | None = None  # no broker answers now
        self._broken: SourceUnavailable | None = None  # the membership cannot go on
        self._committed_at = 0.0
        self._heard_at = time.monotonic()

    # ---- called by the event loop

    def change(self) -> Change | None:
        """The next change, if there is one.

        Raises:
            SourceUnavailable, InvalidConfiguration: the membership is over.
        """
        with self._lock:
            found = self._changes.popleft() if self._changes else None
        if isinstance(found, BaseException):
            raise found
        return found

    def rewind(self, partition: int, epoch: int) -> None:
        """Have the records behind the cursor come again, for a new reader."""
        with self._lock:
            part = self._parts.get(partition)
            if part is not None and part.epoch == epoch and part.taken != part.next:
                part.clear()
                part.seek = part.taken = part.next
                self._lock.notify_all()

    def take(self, partitions: Sequence[tuple[int, int]], limit: int) -> list[Record]:
        """Up to `limit` records of partitions under their epochs, those of each in order.

        Raises:
            SourceUnavailable: there are none, and no broker answers.
        """
        found: list[Record] = []
        with self._lock:
            for partition, epoch in partitions:
                part = self._parts.get(partition)
                if part is None or part.epoch != epoch or part.seek is not None:
                    continue
                while part.records and len(found) < limit:
                    record = part.records.popleft()
                    part.bytes -= len(record.event)
                    part.taken = int(record.position) + 1
                    found.append(record)
            if found:
                self._lock.notify_all()
            elif self._fault is not None:
                raise SourceUnavailable(str(self._fault))
        return found

    def commit(self, partition: int, epoch: int, offset: int) -> None:
        """Have the group's offset moved to `offset`, the one to read next.

        Raises:
            LeaseLost: the partition is not assigned under that epoch any more.
        """
        with self._lock:
            self._held(partition, epoch).next = offset
            self._offsets[partition] = offset

    def passed(self, partition: int, epoch: int, offset: int) -> None:
        """Note that a transaction has moved the group's offset; nothing if the partition is lost by now."""
        with self._lock, suppress(LeaseLost):
            self._held(partition, epoch).next = offset

    def check(self, partition: int, epoch: int) -> None:
        """See that a partition may be committed.

        Raises:
            LeaseLost: it is not assigned under that epoch any more.
        """
        with self._lock:
            self._held(partition, epoch)

    def fail(self, fault: SourceUnavailable) -> None:
        """Have the membership end, and say why."""
        with self._lock:
            self._broken = self._broken or fault

    def close(self) -> None:
        """Have the thread end; it commits and leaves the group first."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()

    # ---- the thread

    def run(self) -> None:
        """Poll until closed. What ends it otherwise comes as the last change."""
        fault: BaseException | None = None
        try:
            self._client.subscribe(self)
            while not self._closing and self._broken is None:
                self._poll()
            fault = self._broken
        except BaseException as raised:  # noqa: BLE001  handed to whoever waits for a change
            fault = raised
        with self._lock:
            self._closing = True
            if fault is not None:
                self._changes.append(fault)
        self._tell()
        self._leave()
        self.over.set()

    def _poll(self) -> None:
        try:
            self._seek()
            self._wait_for_room()
            found = self._client.poll(POLL_RECORDS, POLL_S)
            if found.out_of_range:
                self._restart(found.out_of_range)
            if self._transactions is not None:
                self._transactions.belong(self._client.metadata())
            self._check(found)
        except SourceUnavailable as unavailable:
            if self._fault is None:
                self._fault = unavailable
                self._tell()
        else:
            self._fault = None
            if found.records:
                self._hand_over(found.records)
        self._commit_when_due()

    def _check(self, found: Polled) -> None:
        """Ask the cluster something where polls bring nothing: not every client says that it is cut off."""
        now = time.monotonic()
        if not found.records and (self._fault is not None or now - self._heard_at >= CHECK_S):
            self._client.check()
        elif not found.records:
            return
        self._heard_at = now

    def _seek(self) -> None:
        with self._lock:
            wanted = {p: part.seek for p, part in self._parts.items() if part.seek is not None}
        if not wanted:
            return
        self._client.seek(wanted)
        with self._lock:
            for partition, offset in wanted.items():
                part = self._parts[partition]
                part.clear()
                if part.seek == offset:
                    part.seek = None

    def _wait_for_room(self) -> None:
        """Wait a moment for full buffers; what is full even then, is passed over until it is half empty."""
        with self._lock:
            if any(part.full and not part.paused for part in self._parts.values()):
                self._lock.wait(FULL_S)
            full = [p for p, part in self._parts.items() if part.full and not part.paused]
            free = [p for p, part in self._parts.items() if part.paused and _has_room(part)]
            for partition in full:
                self._parts[partition].paused = True
            for partition in free:
                self._parts[partition].paused = False
        if full:
            self._client.pause(full)
        if free:
            self._client.resume(free)

    def _hand_over(self, found: Mapping[int, list[Record]]) -> None:
        with self._lock:
            for partition, records in found.items():
                part = self._parts.get(partition)
                if part is not None and part.seek is None:
                    part.records.extend(records)
                    part.bytes += sum([len(record.event) for record in records])
        self._tell()

    def _restart(self, partitions: Sequence[int]) -> None:
        """Go on at the oldest record where the wanted one is not there any more."""
        bounds = self._client.bounds(partitions)
        with self._lock:
            for partition, (oldest, end) in bounds.items():
                part = self._parts.get(partition)
                if part is None:
                    continue
                extra = {"partition": partition, "wanted": part.next, "oldest": oldest, "end": end}
                logger.warning("offset is not in the topic, reading on from the oldest", extra=extra)
                part.next = part.seek = oldest

    def _commit_when_due(self) -> None:
        now = time.monotonic()
        if now - self._committed_at < COMMIT_S:
            return
        self._committed_at = now
        self._commit(wait=False)

    def _commit(self, *, wait: bool) -> None:
        with self._lock:
            offsets = dict(self._offsets)
        if not offsets:
            return
        try:
            self._client.commit(offsets, wait=wait)
        except SourceUnavailable as unavailable:
            if wait:
                logger.warning(NOT_COMMITTED, extra={"why": str(unavailable)})

    def _leave(self) -> None:
        try:
            self._commit(wait=True)
            self._client.close()
        except (InvalidConfiguration, SourceUnavailable) as error:
            logger.debug("left without an answer", extra={"why": str(error)})

    # ---- the client's listener, in the thread

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        try:
            starts = self._starts(partitions)
        except SourceUnavailable as unavailable:
            self._broken = unavailable  # the client takes it that they are read now
            raise
        with self._lock:
            self._epoch += 1
            for partition, offset in starts.items():
                self._parts[partition] = _Buffer(self._epoch, offset)
            if starts:
                self._changes.append(Assigned([self._name(p) for p in starts], self._epoch))
        self._tell()
        return starts

    def revoking(self, partitions: Sequence[int]) -> threading.Event:
        done = threading.Event()
        with self._lock:
            held = [self._name(p) for p in partitions if p in self._parts]
            if held and not self._closing:
                self._changes.append(Revoked(held, self._drain_s, done.set))
            else:
                done.set()
        self._tell()
        return done

    def offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        with self._lock:
            return {p: self._offsets[p] for p in partitions if p in self._offsets}

    def revoked(self, partitions: Sequence[int]) -> None:
        with self._lock:
            for partition in partitions:
                self._parts.pop(partition, None)
                self._offsets.pop(partition, None)
                if self._transactions is not None:
                    self._transactions.end(partition)

    def lost(self, partitions: Sequence[int]) -> None:
        with self._lock:
            held = [self._name(p) for p in partitions if p in self._parts]
            if held:
                self._changes.append(Revoked(held, 0.0, _nothing))
        self.revoked(partitions)
        self._tell()

    def committed(self, offsets: Mapping[int, int]) -> None:
        with self._lock:
            for partition, offset in offsets.items():
                if self._offsets.get(partition) == offset:
                    del self._offsets[partition]

    def _held(self, partition: int, epoch: int) -> _Buffer:
        part = self._parts.get(partition)
        if part is None or part.epoch != epoch:
            raise LeaseLost(f"partition {partition} is another member's by now")
        return part

    def _starts(self, partitions: Sequence[int]) -> Mapping[int, int]:
        if self._transactions is not None:
            for partition in partitions:
                self._transactions.begin(partition)
        known = self._client.committed(partitions)
        unknown = [p for p in partitions if p not in known]
        return {**known, **starts(self._client, unknown, self._start)}


def starts(client: Client, partitions: Sequence[int], start: Oldest | At) -> Mapping[int, int]:
    """Where partitions begin of which the group has no offset."""
    if not partitions:
        return {}
    match start:
        case Oldest():
            return {p: oldest for p, (oldest, _) in client.bounds(partitions).items()}
        case At(timestamp=timestamp):
            return client.at(partitions, timestamp)


def _has_room(part: _Buffer) -> bool:
    return len(part.records) <= BUFFER_RECORDS // 2 and part.bytes <= BUFFER_BYTES // 2


def _nothing() -> None:
    pass
