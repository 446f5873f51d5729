"""The PostgreSQL store under the kit of all stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.contract.state import StateStore
from millstream.store.postgres import PostgresStore
from tests.brokers.postgres import Postgres
from tests.contract.store_kit import StoreKit


@pytest.mark.broker
class TestPostgresStore(StoreKit):
    url: str

    @pytest.fixture(autouse=True)
    def database(self, postgres: Postgres) -> None:
        self.url = postgres.database()

    def make(self, folder: Path) -> StateStore:
        return PostgresStore(self.url)
