"""What the PostgreSQL store does where its server is away, hangs, refuses, or is shared."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import psycopg
import pytest

from millstream.contract.errors import StateUnavailable
from millstream.contract.records import Position
from millstream.contract.state import PartitionRow
from millstream.store import postgres as postgres_module
from millstream.store import postgres_server
from millstream.store.postgres import PostgresStore
from millstream.store.postgres_schema import SCHEMA_VERSION, STEPS
from tests.brokers.ports import free_port
from tests.brokers.postgres import Postgres
from tests.contract.store_values import LONG_S, OWNER, ROW, STATUS, WITHIN_S, checkpoint, lease, taken


@asynccontextmanager
async def opened(url: str, *, writable: bool = True) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, writable=writable)
    try:
        yield store
    finally:
        await store.aclose()


async def raised(call: Awaitable[object]) -> str:
    """What a call says that cannot be done."""
    with pytest.raises(StateUnavailable) as caught:
        await call
    return str(caught.value)


async def refusal(url: str, *, writable: bool = True) -> str:
    """What the first call on a URL says."""
    async with opened(url, writable=writable) as store:
        return await raised(store.mappings())


def shown(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.broker
async def test_every_acknowledged_write_survives_kill_9_of_the_server(own_postgres: Postgres) -> None:
    async with opened(own_postgres.database()) as store:
        await store.put_mapping(ROW)
        held = await taken(store)
        written = 0
        enough = asyncio.Event()

        async def write() -> None:
            nonlocal written
            while True:
                await store.commit(held, checkpoint(str(written + 1)))
                written += 1
                if written % 50 == 0:
                    enough.set()

        for _ in range(2):
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                writing = group.create_task(raised(write()))
                await enough.wait()
                own_postgres.kill()
            enough.clear()
            assert "wanted a usable state database" in writing.result()
            with pytest.raises(StateUnavailable, match="refused"):
                await store.cursor(held)
            own_postgres.start()
            assert await store.cursor(held) in {str(written), str(written + 1)}  # killed before it said so
            assert list(await store.renew([held], LONG_S)) == [held]
            await store.commit(held, checkpoint(str(written)))


@pytest.mark.broker
async def test_a_server_that_restarted_between_two_calls_is_not_noticed(own_postgres: Postgres) -> None:
    async with opened(own_postgres.database()) as store:
        await store.put_mapping(ROW)
        for _ in range(2):
            own_postgres.stop()
            own_postgres.start()
            assert list(await store.mappings()) == [ROW]
        own_postgres.stop()
        own_postgres.start()
        assert list(await store.announce("u1", OWNER, LONG_S)) == [OWNER]


@pytest.mark.broker
async def test_a_connection_that_was_ended_for_us_is_made_anew(postgres: Postgres) -> None:
    url = postgres.database()
    async with opened(url) as store:
        await store.put_mapping(ROW)
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'millstream'"
        assert (True,) in shown(url, f"{end} AND datname = current_database()")
        assert list(await store.mappings()) == [ROW]


@pytest.mark.broker
async def test_a_server_that_hangs_is_not_waited_for_for_ever(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_postgres.database()
    async with asyncio.timeout(WITHIN_S), opened(url) as store, opened(url) as closed:
        await store.put_mapping(ROW)
        await closed.mappings()
        monkeypatch.setattr(postgres_module, "ANSWER_S", 0.2)
        monkeypatch.setattr(postgres_module, "CLOSE_S", 0.2)
        with own_postgres.hung():
            for _ in range(2):
                with pytest.raises(StateUnavailable, match=r"wanted an answer within 0\.2 s, found none"):
                    await store.mappings()
            await closed.aclose()
        monkeypatch.undo()
        assert list(await store.mappings()) == [ROW]


@pytest.mark.broker
async def test_a_lock_that_another_program_holds_is_not_waited_for_for_ever(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "STATEMENT_S", 0.5)
    url = postgres.database()
    async with opened(url) as store:
        await store.put_mapping(ROW)
        held = await taken(store)
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM millstream.partitions FOR UPDATE")
            with pytest.raises(StateUnavailable, match="statement timeout"):
                await store.commit(held, checkpoint("1"))
        await store.commit(held, checkpoint("2"))


@pytest.mark.broker
async def test_a_wrong_password_is_said_and_not_shown(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    url = postgres.url("postgres", password="wrong-9c4e")
    said = await refusal(url)
    assert said.startswith("PostgreSQL 127.0.0.1:")
    assert "password authentication failed" in said
    assert "\n" not in said
    assert "wrong-9c4e" not in said + caplog.text + repr(PostgresStore(url))


@pytest.mark.broker
async def test_a_database_that_is_not_there_is_named(postgres: Postgres) -> None:
    assert 'database "none" does not exist' in await refusal(postgres.url("none"))


async def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    said = await refusal(f"postgresql://millstream:hush@127.0.0.1:{port}/state")
    assert said.startswith(f"PostgreSQL 127.0.0.1:{port}/state: wanted a usable state database, found: ")
    assert "refused" in said
    assert "\n" not in said
    assert "hush" not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:xy@zz@127.0.0.1:1/db",
        "postgresql://u:xy/zz@127.0.0.1:1/db",
        "postgresql://u:1/xyzz@127.0.0.1:1/db",
        "postgresql://u:xy%zz@127.0.0.1:1/db",
        "postgresql://u:xyzz@127.0.0.1:1/db?xyzz=1",
        "postgresql://u:xyzz@127.0.0.1:xyzz/db",
        "postgresql:xyzz",
    ],
)
async def test_a_url_that_is_wrong_is_refused_and_not_shown(url: str) -> None:
    said = await refusal(url)
    assert said.startswith("PostgreSQL: wanted a URL as postgresql://user@host:5432/database")
    assert "xy" not in said
    assert "zz" not in said


async def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "millstream.store.postgres_server")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = await refusal("postgresql://127.0.0.1/db")
    assert said.endswith("wanted the package psycopg, found none; pip install 'millstream[postgres]'")


@pytest.mark.broker
@pytest.mark.parametrize("writable", [True, False])
async def test_a_newer_schema_is_refused_and_left_as_it_is(postgres: Postgres, writable: bool) -> None:
    url = postgres.database()
    postgres.execute(
        url, "CREATE SCHEMA millstream; CREATE TABLE millstream.schema_version AS SELECT 99 AS version"
    )
    said = await refusal(url, writable=writable)
    assert said.endswith(f": wanted schema {SCHEMA_VERSION} or older, found 99, of a newer millstream")
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'millstream'::regnamespace"
    assert shown(url, tables) == [("schema_version",)]


@pytest.mark.broker
async def test_a_schema_of_before_keeps_its_leases_and_its_daemon_can_take_none_any_more(
    postgres: Postgres,
) -> None:
    url = postgres.database()
    with psycopg.connect(url, autocommit=True, options="-c search_path=millstream") as before:
        before.execute("CREATE SCHEMA millstream; CREATE TABLE schema_version AS SELECT 2::bigint AS version")
        for step in STEPS[:2]:
            before.execute(step)
        before.execute(
            "INSERT INTO mappings VALUES ('u1', 'shop', 'on_order', 'sqs', 'orders', true, 1000.5);"
            "INSERT INTO partitions VALUES ('u1', 'p', 'before', 3, 0, '7')"
        )
        async with opened(url) as store:
            assert await store.take("u1", "p", OWNER, LONG_S) is None
            assert list(await store.partitions("u1")) == [
                PartitionRow("p", "before", 3, Position("7"), False)
            ]
            with pytest.raises(psycopg.errors.UndefinedColumn):
                before.execute("UPDATE partitions SET owner = 'before' WHERE expires_at <= 1")
            await store.succeed("before", OWNER)
            assert (await taken(store)).epoch == 5


@pytest.mark.broker
async def test_daemons_that_start_at_once_on_a_new_database_all_work(postgres: Postgres) -> None:
    for _ in range(3):
        url = postgres.database()
        stores = [PostgresStore(url) for _ in range(6)]
        try:
            async with asyncio.TaskGroup() as group:
                for store in stores:
                    group.create_task(store.put_mapping(ROW))
            assert [list(await store.mappings()) for store in stores] == [[ROW]] * 6
        finally:
            for store in stores:
                await store.aclose()
        assert shown(url, "SELECT version FROM millstream.schema_version") == [(SCHEMA_VERSION,)]


@pytest.mark.broker
async def test_a_reader_sees_what_is_written_and_writes_nothing(postgres: Postgres) -> None:
    url = postgres.database()
    async with opened(url) as store, opened(url, writable=False) as reader:
        await store.put_mapping(ROW)
        await store.commit(await taken(store), checkpoint("7"))
        assert list(await reader.mappings()) == [ROW]
        assert list(await reader.partitions("u1")) == [PartitionRow("p", OWNER, 1, Position("7"), False)]
        for write in (reader.put_status(OWNER, [STATUS]), reader.delete_mapping("u1")):
            with pytest.raises(StateUnavailable, match="read-only transaction"):
                await write
        assert await reader.cursor(lease()) == "7"


@pytest.mark.broker
async def test_a_reader_of_an_empty_database_makes_nothing(postgres: Postgres) -> None:
    url = postgres.database()
    said = await refusal(url, writable=False)
    assert said.endswith(f"wanted schema {SCHEMA_VERSION}, found 0; `millstream run` brings it up")
    assert shown(url, "SELECT to_regnamespace('millstream')") == [(None,)]


@pytest.mark.broker
async def test_a_user_without_rights_but_on_the_schema_will_do(postgres: Postgres) -> None:
    url = postgres.database()
    name = url.rpartition("/")[2]
    postgres.execute(url, f"CREATE ROLE r{name} LOGIN PASSWORD 'little'")
    assert "permission denied" in await refusal(postgres.url(name, user=f"r{name}", password="little"))
    postgres.execute(url, f"CREATE SCHEMA millstream AUTHORIZATION r{name}")
    async with opened(postgres.url(name, user=f"r{name}", password="little")) as store:
        assert await store.put_mapping(ROW) == ROW


@pytest.mark.broker
async def test_a_mapping_deleted_while_partitions_are_taken_leaves_nothing(postgres: Postgres) -> None:
    url = postgres.database()
    async with opened(url) as one, opened(url) as two:
        await two.mappings()
        for _ in range(10):
            await one.put_mapping(ROW)
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(two.take("u1", f"p{number}", OWNER, LONG_S))
                    group.create_task(two.announce("u1", f"daemon-{number}", LONG_S))
                    group.create_task(two.put_status(OWNER, [STATUS]))
                group.create_task(one.delete_mapping("u1"))
        assert shown(url, "SELECT * FROM millstream.partitions") == []
        assert shown(url, "SELECT * FROM millstream.members") == []
