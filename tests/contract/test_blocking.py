"""Threads for blocking calls: bounded, and never in the way of the interpreter's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from millstream.contract.blocking import BlockingClient


async def test_answers_and_errors_come_back() -> None:
    client = BlockingClient("test", 2)
    assert await client.call(lambda: 7) == 7
    with pytest.raises(KeyError):
        await client.call(dict[str, int]().__getitem__, "nothing")
    client.close()


async def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    client = BlockingClient("test", 2)
    running, most, gate = 0, 0, threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(5)
        running -= 1

    await asyncio.gather(*(client.call(work) for _ in range(6)))
    assert most == 2
    client.close()


async def test_a_closed_client_takes_no_call() -> None:
    client = BlockingClient("test", 1)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.call(lambda: None)


def test_a_call_that_blocks_does_not_hold_the_interpreters_exit() -> None:
    code = (
        "import asyncio, time\nfrom millstream.contract.blocking import BlockingClient\n"
        "async def main():\n    try:\n        async with asyncio.timeout(0.1):\n"
        "            await BlockingClient('t', 1).call(time.sleep, 600)\n"
        "    except TimeoutError:\n        pass\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0


async def test_a_thread_that_cannot_start_fails_one_call_and_not_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = BlockingClient("test", 2)
    start, refused = threading.Thread.start, True

    def limited(thread: threading.Thread) -> None:
        if refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await client.call(lambda: 1)
    refused = False
    async with asyncio.timeout(10.0):
        assert await client.call(lambda: 2) == 2
    client.close()


async def test_a_further_thread_that_cannot_start_leaves_the_work_to_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, gate = BlockingClient("test", 2), threading.Event()
    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        first = group.create_task(client.call(gate.wait))
        await asyncio.sleep(0)

        def never(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", never)
        second = group.create_task(client.call(lambda: 2))
        await asyncio.sleep(0)
        gate.set()
        assert await first
        assert await second == 2
    client.close()
