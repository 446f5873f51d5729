"""Connections to the APIs of an environment: how many there are, and all that a hostile one may send."""

from __future__ import annotations

import asyncio
import logging
import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.functions import Success
from millstream.runtime.api.connection import TRAILER_BYTES, TURN_BYTES, UNREAD_BYTES
from millstream.runtime.api.server import BURST, CONNECTIONS, FEW_CONNECTIONS, PER_S, crowded
from tests.examples import examples
from tests.runtime.test_api_runtime import ID, RUNTIME, WITHIN_S, Side, side

__all__ = ["side"]

CHUNKED = f"POST {RUNTIME}/invocation/{ID}/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
ENDLESS = {
    "head": b"GET / HTTP/1.1\r\nX: ",
    "path": b"GET /",
    "trailer's value": CHUNKED + b"0\r\nX-A: ",
    "trailer's name": CHUNKED + b"0\r\nX",
    "chunk's extension": CHUNKED + b"1;",
    "later chunk's extension": CHUNKED + b"1\r\na\r\n1;",
    "chunk's size": CHUNKED + b"0",
    "trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * (TRAILER_BYTES // 6),
    "empty lines": b"\r\n",
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_never_ends_and_is_no_body_closes_its_connection(side: Side, what: str) -> None:
    async with side.running() as (runtime, _):
        runtime.writer.write(ENDLESS[what])
        more = b"\r\n" if what == "empty lines" else b"0" if what == "chunk's size" else b"a"
        sent = 0
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(WITHIN_S):
                while sent < 1 << 24:
                    runtime.writer.write(more * (65536 // len(more)))
                    sent += 65536
                    await runtime.writer.drain()
    assert sent < 1 << 24, "all of it was taken"


async def test_a_body_in_chunks_of_one_byte_is_taken(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        body = b'"%b"' % (b"x" * 100_000)
        runtime.writer.write(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert (await runtime.answer())[0] == 202
        assert await outcome == Success(body, ID)


async def test_chunks_that_are_all_but_empty_close_their_connection(side: Side) -> None:
    async with side.running() as (runtime, _):
        runtime.writer.write(CHUNKED + b"1;aaaaaaaaaaaaaaaaaaaa\r\na\r\n" * 100_000)
        assert await runtime.closed()


@given(
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=20),
    sizes=st.lists(st.integers(0, 3000), max_size=8),
)
@examples(40)
def test_requests_are_answered_in_their_order_however_they_are_cut(cuts: list[int], sizes: list[int]) -> None:
    asyncio.run(_in_order(cuts, sizes))


async def _in_order(cuts: list[int], sizes: list[int]) -> None:
    async with Side.made() as one:
        runtime = await one.connect()
        data = b"".join(
            b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (number, size, bytes(size))
            for number, size in enumerate(sizes)
        )
        at = turn = 0
        while at < len(data):
            size = cuts[turn % len(cuts)]
            runtime.writer.write(data[at : at + size])
            await asyncio.sleep(0)
            at, turn = at + size, turn + 1
        for number in range(len(sizes)):
            status, _, body = await runtime.answer()
            assert (status, f"Nothing is at /{number}".encode() in body) == (404, True)


async def test_others_have_their_turn_while_requests_come_without_end(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    request = b"GET /x HTTP/1.1\r\n\r\n"
    flooding = [await side.connect() for _ in range(8)]
    for each in flooding:
        each.writer.write(request * 12_000)
        each.writer.write(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100_000)
    longest_s, until = 0.0, time.monotonic() + 2.0
    while time.monotonic() < until:
        began_at = time.monotonic()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.monotonic() - began_at)
    assert longest_s < 0.2
    for each in flooding:
        each.writer.transport.abort()
    await asyncio.sleep(0.1)
    assert [record.message for record in caplog.records] == ["environment slowed down"]


async def test_requests_that_come_to_nothing_are_slowed_down(side: Side) -> None:
    runtime = await side.connect()
    count = int(BURST)  # and as many reads
    began_at = time.monotonic()
    for _ in range(count):
        await runtime.asked("GET", "/")
    assert time.monotonic() - began_at > count / PER_S / 2


async def test_invocations_are_not_slowed_down(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(int(BURST)):
        async with side.running() as (runtime, outcome):
            await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b"1")
            assert await outcome == Success(b"1", ID)
            runtime.writer.close()
            await asyncio.sleep(0)
    assert not caplog.records
    assert side.server.count() == 0.0


async def test_nothing_is_written_to_who_has_gone(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    runtime = await side.connect()
    runtime.writer.write(b"GET /x HTTP/1.1\r\n\r\n" * 2000)
    await asyncio.sleep(0.05)
    runtime.writer.transport.abort()
    await asyncio.sleep(0.5)
    assert not [record.message for record in caplog.records if "exception" in record.message]


async def test_one_that_waits_keeps_its_connection_whoever_else_connects(side: Side) -> None:
    runtime = await side.connect()
    runtime.ask("GET", f"{RUNTIME}/invocation/next")
    await side.api.loaded()
    idle = [await side.connect() for _ in range(CONNECTIONS + 2)]
    for each in idle[3:]:
        assert (await each.asked("GET", "/"))[0] == 404
    for each in idle[:3]:
        assert await each.closed()
    assert side.api.waiting
    side.server.drop_idle()
    for each in idle[3:-FEW_CONNECTIONS]:
        assert await each.closed()
    for each in idle[-FEW_CONNECTIONS:]:
        assert (await each.asked("GET", "/"))[0] == 404
    assert side.api.waiting


async def test_a_seventeenth_is_closed_while_sixteen_wait(side: Side) -> None:
    class Silent:
        def body_limit(self, request: object) -> int:
            return 0

        def handle(self, request: object, reply: object) -> None: ...

    side.server.services["wait"] = Silent()
    held = [await side.connect() for _ in range(CONNECTIONS)]
    for each in held:
        each.ask("GET", "/wait")
    await asyncio.sleep(0.1)
    assert await (await side.connect()).closed()


def test_the_last_quarter_of_the_descriptors_is_not_for_connections() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert not crowded(soft // 2)
    assert crowded(soft - 1)


def test_a_turn_is_short_beside_what_is_read_at_once() -> None:
    assert UNREAD_BYTES <= TURN_BYTES <= 65536
