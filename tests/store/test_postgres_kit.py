"""The PostgreSQL store under the kit of all stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.contract.state import StateStore
from millstream.store import postgres_server
from millstream.store.postgres import PostgresStore
from tests.brokers.pgbouncer import PgBouncer
from tests.brokers.postgres import Postgres
from tests.contract.store_kit import StoreKit


@pytest.mark.broker
class TestPostgresStore(StoreKit):
    url: str

    @pytest.fixture(autouse=True)
    def database(self, postgres: Postgres) -> Iterator[None]:
        self.url = postgres.database()
        yield
        postgres_server._dialect.cache_clear()  # it may know of a clock that was set

    def make(self, folder: Path) -> StateStore:
        return PostgresStore(self.url)

    def set_clock(self, monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
        monkeypatch.setattr(postgres_server, "_NOW_S", f"({postgres_server._NOW_S} + {by_s})")
        postgres_server._dialect.cache_clear()


@pytest.mark.broker
class TestPooledPostgresStore(TestPostgresStore):
    """Through PgBouncer, which hands each transaction another connection."""

    @pytest.fixture(autouse=True)
    def pooled(self, database: None, pgbouncer: PgBouncer) -> None:
        self.url = pgbouncer.url(self.url)
