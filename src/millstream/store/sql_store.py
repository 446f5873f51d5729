"""The StateStore port in SQL, over any Database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from millstream.contract.errors import LeaseLost
from millstream.contract.records import Checkpoint, Position
from millstream.contract.state import Lease, MappingRow, MappingStatus, PartitionRow
from millstream.store import statements as sql
from millstream.store.commits import Commits
from millstream.store.database import Database, Session, Values
from millstream.store.silence import Mark, Watch


class SqlStore:
    """Implements StateStore; what each call means is said there.

    Every statement that decides who may write is one conditional statement: the database, not this
    code, sees to it that of two daemons at most one gets it. Who has fallen silent is told by `monotonic`.
    """

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._commits = Commits(database)
        self._holders = Watch()
        self._members = Watch()
        self._attendants = Watch()

    async def succeed(self, before: str, owner: str) -> None:
        values: Values = {"before": before, "owner": owner}

        def work(session: Session) -> None:
            for statement in sql.SUCCEED:
                session.many(statement, [values])

        await self._database.run(work)

    async def put_mapping(self, row: MappingRow) -> MappingRow:
        (stored,) = await self._database.one(sql.PUT_MAPPING, asdict(row))
        return _mapping(*stored)

    async def mappings(self) -> Sequence[MappingRow]:
        return [_mapping(*row) for row in await self._database.one(sql.MAPPINGS, {})]

    async def delete_mapping(self, uuid: str) -> None:
        await self._database.one(sql.DELETE_MAPPING, {"mapping": uuid})

    async def name_source(self, uuid: str, source: str) -> None:
        await self._database.run(
            lambda session: session.many(sql.NAME_SOURCE, [{"mapping": uuid, "source": source}])
        )

    async def retire(self, uuid: str) -> None:
        await self._database.run(lambda session: session.many(sql.RETIRE, [{"mapping": uuid}]))

    async def attend(self, owner: str, mappings: Sequence[str], ttl_s: float) -> None:
        rows: list[Values] = [
            {"mapping": mapping, "owner": owner, "ttl_s": float(ttl_s)} for mapping in sorted(mappings)
        ]
        await self._database.run(lambda session: session.many(sql.ATTENDANTS.enter, rows))

    async def attendants(self, mapping: str) -> Sequence[str]:
        return await self._living(self._attendants, sql.ATTENDANTS, mapping, ())

    async def put_status(self, owner: str, statuses: Sequence[MappingStatus]) -> None:
        rows = [{**asdict(status), "owner": owner, "mapping": status.uuid} for status in statuses]
        await self._database.run(lambda session: session.many(sql.PUT_STATUS, rows))

    async def statuses(self, owner: str) -> Sequence[MappingStatus]:
        return [MappingStatus(*row) for row in await self._database.one(sql.STATUSES, {"owner": owner})]

    async def started_at(self, mapping: str, at: float) -> float:
        found = await self._database.one(sql.STARTED_AT, {"mapping": mapping, "at": float(at)})
        if not found:
            raise LeaseLost(f"{mapping}: the mapping was deleted")
        return float(found[0][0])

    async def adopt(self, mapping: str, identity: str) -> bool:
        values: Values = {"mapping": mapping, "identity": identity}

        def work(session: Session) -> bool:
            session.many(sql.KNOW_IDENTITY, [values])
            anew = bool(session.rows(sql.ADOPT, values))
            if anew:
                session.many(sql.READ_ANEW, [values])
            return anew

        return await self._database.run(work)

    async def announce(self, mapping: str, owner: str, ttl_s: float) -> Sequence[str]:
        values: Values = {"mapping": mapping, "owner": owner, "ttl_s": float(ttl_s)}
        first = sql.MEMBERS.enter if ttl_s > 0 else sql.MEMBERS.leave
        return await self._living(self._members, sql.MEMBERS, mapping, ((first, values),))

    async def _living(
        self, watch: Watch, roll: sql.Roll, mapping: str, first: Sequence[tuple[str, Values]]
    ) -> list[str]:
        """Who is on a roll, after what is to be written `first`; those who fell silent are struck off."""
        struck: list[Values] = [
            {"mapping": mapping, "owner": name, "beat": mark.beat}
            for name, mark in watch.silent(mapping, self._monotonic()).items()
        ]

        def work(session: Session) -> list[tuple[str, int, float]]:
            for statement, values in first:
                session.many(statement, [values])
            session.many(roll.strike, struck)
            return session.rows(roll.all, {"mapping": mapping})

        rows = await self._database.run(work)
        now = self._monotonic()
        watch.saw(mapping, {owner: Mark(owner, 0, beat, lasts_s) for owner, beat, lasts_s in rows}, now)
        silent = watch.silent(mapping, now)
        return [owner for owner, _, _ in rows if owner not in silent]

    async def partitions(self, mapping: str) -> Sequence[PartitionRow]:
        rows = await self._database.one(sql.PARTITIONS, {"mapping": mapping})
        now = self._monotonic()
        held = {row[0]: Mark(*row[1:5]) for row in rows if row[1] is not None}
        self._holders.saw(mapping, held, now)
        found = []
        for name, owner, epoch, _, _, position, ended, missing_s in rows:
            left_s = self._holders.left_s(mapping, name, now)
            if left_s is not None and left_s <= 0:
                owner, left_s = None, None
            found.append(PartitionRow(name, owner, epoch, position, bool(ended), missing_s, left_s))
        return found

    async def take(self, mapping: str, partition: str, owner: str, ttl_s: float) -> Lease | None:
        values: Values = {"mapping": mapping, "partition": partition, "owner": owner, "ttl_s": float(ttl_s)}
        taken = await self._database.one(sql.TAKE, {**values, **self._silent(mapping, partition)})
        if not taken and await self._found_silent(mapping, partition):
            taken = await self._database.one(sql.TAKE, {**values, **self._silent(mapping, partition)})
        return Lease(mapping, partition, owner, taken[0][0]) if taken else None

    def _silent(self, mapping: str, partition: str) -> Values:
        mark = self._holders.silent_one(mapping, partition, self._monotonic())
        epoch, beat = (-1, -1) if mark is None else (mark.epoch, mark.beat)  # -1: of no lease
        return {"silent_epoch": epoch, "silent_beat": beat}

    async def _found_silent(self, mapping: str, partition: str) -> bool:
        """Look at who holds a partition; True: that one has fallen silent."""
        found = await self._database.one(sql.HOLDER, {"mapping": mapping, "partition": partition})
        now = self._monotonic()
        for mark in found:
            self._holders.saw_one(mapping, partition, Mark(*mark), now)
        return bool(found) and self._holders.silent_one(mapping, partition, now) is not None

    async def renew(self, leases: Sequence[Lease], ttl_s: float) -> Sequence[Lease]:
        rows = [{**asdict(lease), "ttl_s": float(ttl_s)} for lease in leases]
        held = await self._database.run(lambda session: session.many(sql.RENEW, rows))
        return [lease for lease, touched in zip(leases, held, strict=True) if touched]

    async def release(self, lease: Lease, *, ended: bool = False) -> None:
        await self._database.one(sql.RELEASE, {**asdict(lease), "ended": ended})

    async def cursor(self, lease: Lease) -> Position | None:
        found = await self._database.one(sql.CURSOR, asdict(lease))
        return found[0][0] if found else None

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        if checkpoint.partition != lease.partition:
            raise ValueError(f"a checkpoint of {checkpoint.partition} under a lease of {lease.partition}")
        if b"\0" in checkpoint.position.encode():
            raise ValueError("a position is text without the character NUL")
        if not await self._commits.write({**asdict(lease), "position": checkpoint.position}):
            raise LeaseLost(f"{lease.mapping} {lease.partition}: epoch {lease.epoch} is over")

    async def note_missing(self, mapping: str, missing: Sequence[str], found: Sequence[str]) -> None:
        def work(session: Session) -> None:
            for statement, partitions in ((sql.MISSING, missing), (sql.FOUND, found)):
                session.many(statement, [{"mapping": mapping, "partition": p} for p in sorted(partitions)])

        await self._database.run(work)

    async def forget(self, mapping: str, partitions: Sequence[str]) -> None:
        rows = [{"mapping": mapping, "partition": partition} for partition in sorted(partitions)]
        await self._database.run(lambda session: session.many(sql.FORGET, rows))

    async def aclose(self) -> None:
        """Close after the calls that were made; calls after this one raise RuntimeError."""
        await self._database.aclose()


def _mapping(
    uuid: str,
    app: str,
    function: str,
    kind: str,
    source: str,
    enabled: int,
    last_modified: float,
    retired_at: float | None,
) -> MappingRow:
    return MappingRow(uuid, app, function, kind, source, bool(enabled), last_modified, retired_at)
