"""The StateStore port in SQL, over any Database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from millstream.contract.errors import LeaseLost
from millstream.contract.records import Checkpoint, Position
from millstream.contract.state import Lease, MappingRow, MappingStatus, PartitionRow
from millstream.store import statements as sql
from millstream.store.commits import Commits
from millstream.store.database import Database, Session, Values


class SqlStore:
    """Implements StateStore; what each call means is said there.

    Every statement that decides who may write is one conditional statement: the database, not this
    code, sees to it that of two daemons at most one gets it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._commits = Commits(database)

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
        await self._database.run(lambda session: session.many(sql.ATTEND, rows))

    async def attendants(self, mapping: str) -> Sequence[str]:
        return [name for (name,) in await self._database.one(sql.ATTENDANTS, {"mapping": mapping})]

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

        def work(session: Session) -> list[str]:
            session.rows(sql.LEAVE, values)
            if ttl_s > 0:
                session.rows(sql.JOIN, values)
            return [name for (name,) in session.rows(sql.MEMBERS, values)]

        return await self._database.run(work)

    async def partitions(self, mapping: str) -> Sequence[PartitionRow]:
        rows = await self._database.one(sql.PARTITIONS, {"mapping": mapping})
        return [
            PartitionRow(name, owner, epoch, position, bool(ended), missing_s)
            for name, owner, epoch, position, ended, missing_s in rows
        ]

    async def take(self, mapping: str, partition: str, owner: str, ttl_s: float) -> Lease | None:
        values: Values = {"mapping": mapping, "partition": partition, "owner": owner, "ttl_s": float(ttl_s)}
        taken = await self._database.one(sql.TAKE, values)
        return Lease(mapping, partition, owner, taken[0][0]) if taken else None

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
