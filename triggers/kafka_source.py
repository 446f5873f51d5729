"""An opened topic: a member of its consumer group, as the core wants it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import LeaseLost, Refused, SourceUnavailable
from millstream.contract.groups import Change, Outputs
from millstream.contract.records import Checkpoint, Record
from millstream.contract.state import Lease
from millstream.contract.streams import At, Oldest, Page
from millstream.triggers.kafka_client import Client, GroupSettings, RecordCheck, Transactions
from millstream.triggers.kafka_member import Member
from millstream.triggers.kafka_records import RecordMaker

LEAVE_S = 5.0
"""How long a stop waits for the last commit and for the group to be left."""


class KafkaSource:
    """Implements GroupSource over one client."""

    def __init__(
        self,
        name: str,
        client: Client,
        maker: RecordMaker,
        calls: BlockingClient,
        event_source_arn: str,
        settings: GroupSettings,
        outputs: Transactions | None = None,
        check: RecordCheck | None = None,
    ) -> None:
        self._check = check
        self._group = settings.group_id
        self._outputs = outputs
        self._client = client
        self._maker = maker
        self._calls = calls
        self._arn = event_source_arn
        self._settings = settings
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()  # a change
        self._readers: set[KafkaReader] = set()
        self._member: Member | None = None
        self._ends: dict[int, int] = {}
        self._identity: str | None = None  # of the topic that has these ends
        self._closed = False

    @property
    def event_source_arn(self) -> str:
        return self._arn

    @property
    def details(self) -> Mapping[str, str]:
        return {"consumer_group_id": self._group, "client": self._client.name}

    @property
    def outputs(self) -> Outputs | None:
        return self._outputs

    async def mark(self) -> float:
        marked_at = time.time()
        self._ends = await self._calls.call(self._find_ends)
        return marked_at

    async def join(self, start: Oldest | At, *, marked: bool = False) -> None:
        if marked:
            await self._calls.call(self._keep_ends)
        member = Member(
            self._client,
            start,
            self._settings.drain_s,
            self._maker,
            self._tell,
            self._outputs,
            self._settings.buffer_bytes,
        )
        try:
            threading.Thread(target=member.run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            raise SourceUnavailable(f"{self._arn}: {error}") from error
        self._member = member

    async def change(self) -> Change:
        assert self._member is not None
        while (change := self._member.change()) is None:
            self._arrived.clear()
            await self._arrived.wait()
        return change

    async def reader(self, leases: Sequence[Lease]) -> KafkaReader:
        assert self._member is not None
        parts = [(self._maker.number(lease.partition), lease.epoch) for lease in leases]
        for partition, epoch in parts:
            self._member.buffers.rewind(partition, epoch)
            if self._outputs is not None and not self._outputs.forget(partition):
                unknown = SourceUnavailable(f"{leases[0].partition}: a transaction's end is not known")
                self._member.fail(unknown)
                raise unknown
        return KafkaReader(self._member, parts, self._readers, self._check)

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        assert self._member is not None
        number, position = self._maker.number(lease.partition), int(checkpoint.position)
        if self._outputs is None:
            self._member.commit(number, lease.epoch, position + 1)
            return
        self._member.buffers.check(number, lease.epoch)
        try:
            await self._outputs.commit(number, position)
        except SourceUnavailable as unknown:
            self._member.fail(unknown)
            raise LeaseLost(str(unknown)) from unknown
        self._member.buffers.passed(number, lease.epoch, position + 1)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._member is not None:
            self._member.close()
            await self._calls.call(self._member.over.wait, LEAVE_S)
        else:
            with suppress(SourceUnavailable, Refused):
                await self._calls.call(self._client.close)
        if self._outputs is not None:
            await self._outputs.aclose()
        if self._check is not None:
            await self._check.aclose()
        self._calls.close()

    def _find_ends(self) -> dict[int, int]:
        self._identity = self._client.identity()
        bounds = self._client.bounds(self._client.partitions())
        return {partition: end for partition, (_, end) in bounds.items()}

    def _keep_ends(self) -> None:
        """Make the ends the group's offsets, where it has none. Refused once the group has members."""
        known = self._client.committed(list(self._ends))
        unknown = {p: end for p, end in self._ends.items() if p not in known}
        if unknown:
            self._client.commit(unknown, self._identity, wait=True)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._arrived.set()
        for reader in self._readers:
            reader.arrived.set()


class KafkaReader:
    """Implements StreamReader. A cancelled read takes nothing."""

    def __init__(
        self,
        member: Member,
        parts: Sequence[tuple[int, int]],
        among: set[KafkaReader],
        check: RecordCheck | None = None,
    ) -> None:
        self._check = check
        self._unchecked: list[Record] = []
        self.arrived = asyncio.Event()
        self._member = member
        self._parts = parts
        self._among = among
        among.add(self)

    async def read(self, limit: int, wait_s: float) -> Page:
        records = self._unchecked or await self._next(limit, wait_s)
        if not records:
            return Page()
        if self._check is None:
            return Page(records)
        self._unchecked = records
        found = await self._check.checked(records)
        self._unchecked = []
        return Page(found)

    async def _next(self, limit: int, wait_s: float) -> list[Record]:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    self.arrived.clear()
                    if records := self._member.take(self._parts, limit):
                        return records
                    await self.arrived.wait()
        return []

    async def aclose(self) -> None:
        self._among.discard(self)
