"""The SQLite store under the kit of all stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.contract.state import StateStore
from millstream.store import sqlite
from millstream.store.sqlite import SqliteStore
from tests.contract.store_kit import StoreKit


class TestSqliteStore(StoreKit):
    def make(self, folder: Path) -> StateStore:
        return SqliteStore(folder / "state.db")

    def set_clock(self, monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
        monkeypatch.setattr(sqlite, "_NOW_S", f"({sqlite._NOW_S} + {by_s})")
