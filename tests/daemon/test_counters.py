"""States and counters that cannot be written end no mapping."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from millstream.contract.state import MappingRow, MappingStatus
from millstream.daemon.counters import Counters
from millstream.store.sqlite import SqliteStore


async def test_a_text_that_the_store_cannot_hold_is_said_once_and_the_next_one_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = SqliteStore(tmp_path / "state.db")
    try:
        await store.put_mapping(MappingRow("m", "app", "f", "sqs", "q", True, 0.0))
        counters = Counters(store, "me")
        for _ in range(2):
            await counters.write([MappingStatus("m", "Enabled", "PROBLEM: queue \ud83d: AccessDenied")])
        assert [record.message for record in caplog.records] == ["counters not written"]
        await counters.write([MappingStatus("m", "Enabled", "")])
        assert [status.state for status in await store.statuses("me")] == ["Enabled"]
        await counters.write([MappingStatus("m", "Enabled", "PROBLEM: queue \ud83d: AccessDenied")])
        assert len(caplog.records) == 2
    finally:
        await store.aclose()
