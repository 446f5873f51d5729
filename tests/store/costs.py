"""Tells what calls on each state store cost, written through to the disk: `python -m tests.store.costs`."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from millstream.contract.state import Lease, StateStore
from millstream.store.postgres import PostgresStore
from millstream.store.sqlite import SqliteStore
from tests.brokers.postgres import server
from tests.contract.store_values import LONG_S, ROW, checkpoint, lease, taken

COMMITS, RENEWALS, LEASES = 500, 20, 1000


async def took_ms(times: int, call: Callable[[], Awaitable[object]]) -> float:
    """The median of some calls, one after another."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1000


async def measure(name: str, store: StateStore) -> None:
    """Print what one store takes."""
    await store.put_mapping(ROW)
    held: list[Lease] = [await taken(store, f"p{number}") for number in range(LEASES)]
    made = [checkpoint("1234567", each.partition) for each in held]
    # SQLite writes nothing where nothing changes.
    marks = iter([checkpoint(str(10**20 + number), held[0].partition) for number in range(COMMITS)])
    commit_ms = await took_ms(COMMITS, lambda: store.commit(held[0], next(marks)))
    renew_ms = await took_ms(RENEWALS, lambda: store.renew(held, LONG_S))
    rows_ms = await took_ms(RENEWALS, lambda: store.partitions(lease().mapping))
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for each, mark in zip(held, made, strict=True):
            group.create_task(store.commit(each, mark))
    burst_s = time.perf_counter() - start
    await store.aclose()
    print(
        f"{name:<11} commit {commit_ms:6.2f} ms   {LEASES} commits at once {burst_s * 1000:6.0f} ms   ",
        end="",
    )
    print(f"renew {LEASES} {renew_ms:6.1f} ms   partitions of {LEASES} {rows_ms:6.1f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure("SQLite", SqliteStore(Path(folder) / "state.db")))
    with server(durable=True) as postgres:
        asyncio.run(measure("PostgreSQL", PostgresStore(postgres.database())))


if __name__ == "__main__":
    main()
