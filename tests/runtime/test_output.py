"""What a function writes, on its way into the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest

from millstream.runtime.output import LINE_BYTES, LINE_COST_BYTES, REQUEST_BYTES, Output


class Lines:
    """A LogSink in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, stream: str, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
async def piped() -> AsyncIterator[tuple[Output, Lines, Callable[[bytes], None]]]:
    sink = Lines()
    output = Output(sink, "abcd")
    yield output, sink, lambda data: _all(output.write_end, data)
    output.close()


Piped = tuple[Output, Lines, Callable[[bytes], None]]


def _all(descriptor: int, data: bytes) -> None:
    assert os.write(descriptor, data) == len(data)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_lines_come_as_they_were_written_empty_ones_too(piped: Piped) -> None:
    output, sink, write = piped
    for part in (b"on", b"e\n\ntwo\n", b"\n", b"thr", b"ee"):
        write(part)
        await turns()
    output.end()
    assert sink.lines == ["one", "", "two", "", "three"]


async def test_a_carriage_return_ends_a_line_as_well(piped: Piped) -> None:
    output, sink, write = piped
    write(b"[ERROR] no\rTraceback\r\n10 %\r20 %\rend")
    await turns()
    output.end()
    assert sink.lines == ["[ERROR] no", "Traceback", "10 %", "20 %", "end"]


async def test_a_line_without_an_end_is_cut(piped: Piped) -> None:
    _, sink, write = piped
    for _ in range(LINE_BYTES // 32768 + 2):
        write(b"x" * 32768)
        await turns()
    assert [len(line) for line in sink.lines] == [LINE_BYTES + 32768]


async def test_what_is_no_text_is_still_a_line(piped: Piped) -> None:
    output, sink, write = piped
    write(b"\xff\xfe\n")
    output.end()
    assert sink.lines == ["\ufffd\ufffd"]


@pytest.mark.parametrize("line", [b"\n", b"x" * 999 + b"\n"], ids=["empty lines", "long lines"])
async def test_a_flood_is_bounded_and_said_and_the_next_request_is_free_of_it(
    piped: Piped, line: bytes
) -> None:
    output, sink, write = piped
    output.begin()
    piece = line * (65000 // len(line))
    for _ in range(2 * REQUEST_BYTES // len(piece)):
        write(piece)
        output.end()
    at_most = REQUEST_BYTES // (len(line) - 1 + LINE_COST_BYTES) + 1
    kept = [text for text in sink.lines if not text.startswith("LOGS_DROPPED")]
    assert len(kept) <= at_most
    assert len(kept) < len(sink.lines)
    sink.lines.clear()
    output.begin()
    write(b"fine\n")
    output.end()
    assert sink.lines == ["fine"]


async def test_a_flood_is_read_on_so_that_its_writer_goes_on(piped: Piped) -> None:
    output, sink, _ = piped
    os.set_blocking(output.write_end, False)
    output.begin()
    sent = 0
    async with asyncio.timeout(10.0):
        while sent < 3 * REQUEST_BYTES:
            try:
                sent += os.write(output.write_end, b"x" * 65535 + b"\n")
            except BlockingIOError:
                await asyncio.sleep(0)
    output.end()
    assert sink.lines[-1].startswith("LOGS_DROPPED Dropped Bytes: ")
