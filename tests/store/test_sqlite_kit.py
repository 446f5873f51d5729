"""The SQLite store under the kit of all stores."""

from __future__ import annotations

from pathlib import Path

from millstream.contract.state import StateStore
from millstream.store.sqlite import SqliteStore
from tests.contract.store_kit import StoreKit


class TestSqliteStore(StoreKit):
    def make(self, folder: Path) -> StateStore:
        return SqliteStore(folder / "state.db")
