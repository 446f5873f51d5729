"""The PostgreSQL store behind a pooler that gives each transaction any of a few sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest

from millstream.contract.errors import StateUnavailable
from millstream.contract.state import StateStore
from millstream.store import postgres_server
from millstream.store.postgres import PostgresStore
from tests.brokers.pgbouncer import PgBouncer, pooler
from tests.brokers.postgres import Postgres
from tests.contract.store_values import LONG_S, OWNER, ROW, STATUS, checkpoint, taken

pytestmark = pytest.mark.broker

SETTINGS = (
    "search_path",
    "synchronous_commit",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "default_transaction_read_only",
)


@asynccontextmanager
async def opened(url: str, *, writable: bool = True) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, writable=writable)
    try:
        yield store
    finally:
        await store.aclose()


async def busy(store: StateStore, number: int) -> None:
    """More calls of each kind than it takes to have a statement prepared."""
    held = await taken(store, f"p{number}")
    for count in range(20):
        await store.commit(held, checkpoint(str(count), held.partition))
        await store.announce("u1", f"d{number}", LONG_S)
        assert list(await store.renew([held], LONG_S)) == [held]
        assert held.partition in {row.partition for row in await store.partitions("u1")}


async def test_daemons_leave_nothing_in_the_sessions_that_others_use_too(
    postgres: Postgres, pgbouncer: PgBouncer
) -> None:
    direct = postgres.database()
    url = pgbouncer.url(direct)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(url)) for _ in range(5)]
        reader = await stack.enter_async_context(opened(url, writable=False))
        await stores[0].put_mapping(ROW)
        async with asyncio.TaskGroup() as group:
            for number, store in enumerate(stores):
                group.create_task(busy(store, number))
        assert len(await reader.partitions("u1")) == len(stores)
        with psycopg.connect(direct) as plain:
            wanted = [plain.execute(f"SHOW {name}".encode()).fetchone() for name in SETTINGS]
        # Transactions at the same time have each of the pool's sessions.
        with psycopg.connect(url) as one, psycopg.connect(url) as other:
            processes = set()
            for client in (one, other):
                processes.add(client.execute("SELECT pg_backend_pid()").fetchone())
                assert [client.execute(f"SHOW {name}".encode()).fetchone() for name in SETTINGS] == wanted
                assert client.execute("SELECT name FROM pg_prepared_statements").fetchall() == []
            assert len(processes) == 2


async def test_a_lock_that_another_program_holds_is_not_waited_for_for_ever(
    postgres: Postgres, pgbouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "STATEMENT_S", 0.5)
    direct = postgres.database()
    async with opened(pgbouncer.url(direct)) as store:
        await store.put_mapping(ROW)
        held = await taken(store)
        with psycopg.connect(direct) as other:
            other.execute("SELECT * FROM millstream.partitions FOR UPDATE")
            with pytest.raises(StateUnavailable, match="statement timeout"):
                await store.commit(held, checkpoint("1"))
        await store.commit(held, checkpoint("2"))


async def test_what_the_server_would_do_by_default_does_not_matter(
    postgres: Postgres, pgbouncer: PgBouncer
) -> None:
    direct = postgres.database()
    postgres.execute(direct, f"ALTER DATABASE {direct.rpartition('/')[2]} SET synchronous_commit = off")
    url = pgbouncer.url(direct)
    async with opened(url) as store:
        await store.put_mapping(ROW)
        server = postgres_server.PostgresServer(url, writable=True)
        show = "SHOW synchronous_commit"
        assert server.one(show, {}) == server.run(lambda session: session.rows(show, {})) == [("on",)]
        server.close()


async def test_a_reader_writes_nothing(postgres: Postgres, pgbouncer: PgBouncer) -> None:
    url = pgbouncer.url(postgres.database())
    async with opened(url) as store, opened(url, writable=False) as reader:
        await store.put_mapping(ROW)
        for write in (reader.put_status(OWNER, [STATUS]), reader.delete_mapping("u1")):
            with pytest.raises(StateUnavailable, match="read-only transaction"):
                await write
        await store.delete_mapping("u1")


async def test_a_server_that_restarted_between_two_calls_is_not_noticed(own_postgres: Postgres) -> None:
    with pooler(own_postgres, 2) as pool:
        async with opened(pool.url(own_postgres.database())) as store:
            await store.put_mapping(ROW)
            for _ in range(2):
                own_postgres.stop()
                own_postgres.start()
                assert list(await store.mappings()) == [ROW]
