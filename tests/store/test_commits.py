"""Checkpoints that are written together: each caller is told, or cancelled, by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from millstream.store.commits import Commits
from millstream.store.database import Session, Values

T = TypeVar("T")


class Gated:
    """A database that takes each checkpoint once it is let. Implements Database."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.written: list[Values] = []

    async def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        await self.gate.wait()
        self.written.append(values)
        return [(1,)]

    async def run(self, work: Callable[[Session], T]) -> T:
        await self.gate.wait()
        return work(self)

    def rows(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        raise AssertionError("commits read nothing")

    def many(self, statement: str, values: Sequence[Values]) -> list[int]:
        self.written += values
        return [1] * len(values)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("cancelled", [1, 2])
async def test_who_is_cancelled_while_its_group_is_written_is_cancelled_and_the_others_are_told(
    cancelled: int,
) -> None:
    database = Gated()
    commits = Commits(database)
    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        tasks = [group.create_task(commits.write({"position": n})) for n in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        database.gate.set()
        database.gate = asyncio.Event()  # the first was written alone; the other two are written together
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[cancelled].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        database.gate.set()
    assert [task.cancelled() for task in tasks] == [n == cancelled for n in range(3)]
    assert all(task.result() for n, task in enumerate(tasks) if not task.cancelled())
