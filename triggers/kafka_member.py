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

from millstream.contract.errors import MillstreamError, SourceUnavailable
from millstream.contract.groups import Assigned, Change, Revoked
from millstream.contract.records import Record
from millstream.contract.seldom import Seldom
from millstream.contract.streams import At, Oldest
from millstream.triggers.kafka_buffer import MOST_BYTES
from millstream.triggers.kafka_buffers import Buffers
from millstream.triggers.kafka_client import NOT_COMMITTED, Client, Polled, Transactions
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_starts import Ended, Starts
from millstream.triggers.kafka_unreadable import GIVEN_UP, Unreadable

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How long a poll waits for records: how long a stop takes to be seen."""

COMMIT_S = 1.0
"""Between two commits while a partition is read on."""

LEAVE_S = 4.0
"""How long the last commit is tried."""

CHECK_S = 5.0
"""How long nothing may come before the cluster is asked whether it is there."""

IDENTITY_S = 10.0
"""Between two looks whether the topic is still the one that it was."""

QUIET_S = 0.5
"""After so long without a record the topic is looked at before the next ones are handed over: while it was
deleted and made anew nothing came, and what comes then at our offset is in the midst of another topic."""

FULL_S = 0.05
PATIENCE_S = 1.0
"""How long the thread waits for a full partition at a time, and before it has the client pass over it."""


class Member:
    """Implements the client's Listener. Made, then used by its own thread and the event loop at once.

    `tell` is called from the thread whenever there is something to `take` or a change.
    """

    def __init__(
        self,
        client: Client,
        start: Oldest | At,
        drain_s: float,
        maker: RecordMaker,
        tell: Callable[[], None],
        transactions: Transactions | None = None,
        buffer_bytes: int = MOST_BYTES,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._maker = maker
        self._name = maker.name
        self._starts = Starts(client, start, maker.topic)
        self._drain_s = drain_s
        self._tell = tell
        self.over = threading.Event()  # the thread has left the group
        self.buffers = Buffers(buffer_bytes)
        self._unreadable = Unreadable()
        self._seldom = Seldom()
        self._lock = threading.Lock()
        self._changes: deque[Change | Exception] = deque()
        self._offsets: dict[int, int] = {}  # to commit
        self._astray: set[int] = set()  # partitions whose next offset the topic does not have
        self._epoch = 0
        self._closing = False
        self._fault: SourceUnavailable | None = None  # no broker answers now
        self._broken: SourceUnavailable | None = None  # the membership cannot go on
        self._committed_at = 0.0
        self._heard_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._brought_at = time.monotonic()

    # ---- called by the event loop

    def change(self) -> Change | None:
        """The next change, if there is one.

        Raises:
            SourceUnavailable, Refused: the membership is over.
        """
        with self._lock:
            found = self._changes.popleft() if self._changes else None
        if isinstance(found, Exception):
            raise found
        return found

    def take(self, partitions: Sequence[tuple[int, int]], limit: int) -> list[Record]:
        """Up to `limit` records of partitions under their epochs, those of each in order.

        Raises:
            SourceUnavailable: there are none, and no broker answers.
        """
        found = self.buffers.take(partitions, limit)
        fault = self._fault
        if not found and fault is not None:
            raise SourceUnavailable(str(fault))
        return found

    def commit(self, partition: int, epoch: int, offset: int) -> None:
        """Have the group's offset moved to `offset`, the one to read next.

        Raises:
            LeaseLost: the partition is not assigned under that epoch any more.
        """
        with self._lock:  # together, lest a revocation comes between
            self.buffers.passed(partition, epoch, offset)
            self._offsets[partition] = offset

    def fail(self, fault: SourceUnavailable) -> None:
        """Have the membership end, and say why."""
        with self._lock:
            self._broken = self._broken or fault

    def close(self) -> None:
        """Have the thread end; it commits and leaves the group first."""
        self._closing = True
        self.buffers.wake()

    # ---- the thread

    def run(self) -> None:
        """Poll until closed. What ends it otherwise comes as the last change."""
        fault: Exception | None = SourceUnavailable(f"{self._maker.topic}: the polling thread has failed")
        try:
            self._client.subscribe(self)
            while not self._closing and self._broken is None:
                self._poll()
            fault = self._broken
        except Exception as raised:  # noqa: BLE001  handed to whoever waits for a change
            fault = raised
        finally:  # also of what a library raises that is no exception of Python's
            self._end(fault)

    def _end(self, fault: Exception | None) -> None:
        with self._lock:
            self._closing = True
            if fault is not None:
                self._changes.append(fault)
        self._tell()
        try:
            self._leave()
        finally:
            self.over.set()

    def _poll(self) -> None:
        try:
            self._seek()
            if limit := self._room():
                self._fetch(limit)
        except Ended as ended:
            self.fail(ended)
        except SourceUnavailable as unavailable:
            if self._fault is None:
                self._fault = unavailable
                self._tell()
            elif not self.buffers.assigned:  # no reader is there to be told
                self.fail(unavailable)
        else:
            self._fault = None
        self._commit_when_due()

    def _fetch(self, limit: int) -> None:
        try:
            found = self._client.poll(limit, POLL_S)
        except SourceUnavailable:
            self.buffers.read_again()  # what the call had taken until then is nowhere
            raise
        self._look(every_s=QUIET_S if found.records and self._was_quiet() else IDENTITY_S)
        self.buffers.put(found.records, found.ends)  # before anything that may fail
        if found.records:
            self._brought_at = time.monotonic()
            self._tell()
        with self._lock:
            self._astray.update(found.out_of_range)  # not every client says it twice
        if found.unreadable:
            self._give_up(found.unreadable)
        self._restart()
        if self._transactions is not None:
            self._transactions.belong(self._client.metadata(), self.identity)
        self._check(found)

    def _was_quiet(self) -> bool:
        return time.monotonic() - self._brought_at >= QUIET_S

    def _look(self, every_s: float) -> None:
        """See that the topic is the one whose offsets we have, if that was last done so long ago."""
        now = time.monotonic()
        if now - self._looked_at < every_s:
            return
        self._looked_at = now
        try:
            self._starts.check()
        except Ended:
            raise
        except SourceUnavailable as unavailable:  # polls say that best
            logger.debug("topic not looked at", extra={"topic": self._maker.topic, "why": str(unavailable)})

    def _give_up(self, unreadable: Mapping[int, str]) -> None:
        """Have the mapping give up a record that the client has failed to read again and again."""
        for partition, why in unreadable.items():
            offset = self.buffers.brought(partition)
            if offset is None or not self._unreadable.is_final(partition, offset):
                continue
            name = self._name(partition)
            if self._seldom.due((name, why)):
                extra = {"partition": name, "offset": offset, "why": why}
                logger.warning(GIVEN_UP, extra=extra)
            self.buffers.put({partition: [self._maker.unreadable(partition, offset, time.time())]})
            self._client.seek({partition: offset + 1})
            self._tell()

    def _check(self, found: Polled) -> None:
        """Ask the cluster something where polls bring nothing: not every client says that it is cut off."""
        now = time.monotonic()
        if not found.records and (self._fault is not None or now - self._heard_at >= CHECK_S):
            self._client.check()
        elif not found.records:
            return
        self._heard_at = now

    def _seek(self) -> None:
        if wanted := self.buffers.wanted():
            self._client.seek(wanted)
            self.buffers.sought(wanted)

    def _room(self) -> int:
        """How many records there is room for."""
        room = self.buffers.room(time.monotonic(), FULL_S, PATIENCE_S)
        if room.pass_over:
            self._client.pause(room.pass_over)
        if room.bring:
            self._client.resume(room.bring)
        return room.limit if room.enough else 0

    def _restart(self) -> None:
        """Go on at the oldest record where the wanted one is not there any more."""
        with self._lock:
            astray = self.buffers.held(sorted(self._astray))
        if not astray:
            return
        self._starts.check()
        for partition, (oldest, end) in self._client.bounds(astray).items():
            wanted = self.buffers.brought(partition)
            extra = {"partition": self._name(partition), "wanted": wanted, "oldest": oldest, "end": end}
            logger.warning("offset is not in the topic, reading on from the oldest", extra=extra)
            if not self.buffers.jump(partition, oldest):
                raise Ended(f"{self._name(partition)}: its log was cut off")
        with self._lock:
            self._astray.difference_update(astray)

    def _commit_when_due(self) -> None:
        now = time.monotonic()
        if now - self._committed_at < COMMIT_S:
            return
        self._committed_at = now
        self._commit(wait=False)

    def _commit(self, *, wait: bool) -> bool:
        """Commit what is due. False: the cluster refuses to, for now."""
        with self._lock:
            if self._transactions is None:  # else it could come behind the next transaction's
                self._offsets |= self.buffers.skip_markers()
            offsets = dict(self._offsets)
        if not offsets:
            return True
        try:
            self._client.commit(offsets, self.identity, wait=wait)
        except SourceUnavailable as unavailable:
            if wait:
                logger.warning(NOT_COMMITTED, extra={"why": str(unavailable)})
            return False
        return True

    def _leave(self) -> None:
        until = time.monotonic() + LEAVE_S
        try:
            while not self._commit(wait=True) and time.monotonic() < until:
                self._client.poll(1, POLL_S)  # a rebalance that goes on refuses commits
        except MillstreamError as error:
            logger.warning(NOT_COMMITTED, extra={"why": str(error)})
        try:
            self._client.close()
        except MillstreamError as error:
            logger.debug("left without an answer", extra={"why": str(error)})

    # ---- the client's listener, in the thread

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        if self._transactions is not None:
            self._transactions.begin(partitions)
        places = self._starts.of(partitions)
        starts = places.all
        if self._transactions is not None and places.begun:  # before there can be a transaction behind them
            self._client.commit(places.begun, self.identity, wait=True)
        with self._lock:
            self._epoch += 1
            self.buffers.open(starts, self._epoch)
            if self._transactions is None:  # else they could come behind the first transaction's
                self._offsets |= starts  # the group has them at once, whatever comes of the place we began at
            if starts:
                self._changes.append(Assigned([self._name(p) for p in starts], self._epoch))
        self._tell()
        return starts

    def revoking(self, partitions: Sequence[int]) -> threading.Event:
        done = threading.Event()
        with self._lock:
            held = [self._name(p) for p in self.buffers.held(partitions)]
            if held and not self._closing:
                self._changes.append(Revoked(held, self._drain_s, done.set))
            else:
                done.set()
        self._tell()
        return done

    @property
    def identity(self) -> str | None:
        return self._starts.identity

    def offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        with self._lock:
            return {p: self._offsets[p] for p in partitions if p in self._offsets}

    def revoked(self, partitions: Sequence[int]) -> None:
        with self._lock:
            self.buffers.drop(partitions)
            self._astray.difference_update(partitions)
            for partition in partitions:
                self._offsets.pop(partition, None)
                if self._transactions is not None:
                    self._transactions.end(partition)

    def lost(self, partitions: Sequence[int]) -> None:
        with self._lock:
            held = [self._name(p) for p in self.buffers.held(partitions)]
            if held:
                self._changes.append(Revoked(held, 0.0, _nothing))
        self.revoked(partitions)
        self._tell()

    def committed(self, offsets: Mapping[int, int]) -> None:
        with self._lock:
            for partition, offset in offsets.items():
                if self._offsets.get(partition) == offset:
                    del self._offsets[partition]


def _nothing() -> None:
    pass
