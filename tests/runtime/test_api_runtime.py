"""The Runtime API over real sockets: its order of calls, and everything that a hostile runtime may send."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec
import pytest

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed, Outcome, Success
from millstream.runtime.api.connection import DISCARD_BYTES, HEADER_BYTES
from millstream.runtime.api.runtime import VERSION, RuntimeApi
from millstream.runtime.api.server import Server
from millstream.runtime.link import Broken, Invocation

RUNTIME = f"/{VERSION}/runtime"
ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
WITHIN_S = 10.0


class Connection:
    """A runtime's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(WITHIN_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def asked(self, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, bytes]:
        self.ask(method, path, body, *headers)
        status, _, answer = await self.answer()
        return status, answer

    async def closed(self) -> bool:
        """True once the other end has closed."""
        async with asyncio.timeout(WITHIN_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
        return True


@dataclass
class Side:
    """Both ends: the daemon's, and a way to connect as a runtime."""

    api: RuntimeApi
    server: Server
    listener: socket.socket

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        return connection

    def __post_init__(self) -> None:
        self.connections: list[Connection] = []

    async def run(self) -> Outcome | Broken:
        try:
            return await self.api.run(Invocation(ID, b'{"a":1}', 1700000000000, "Root=1-0-0"))
        except Broken as broken:
            return broken

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Connection, asyncio.Task[Outcome | Broken]]]:
        """A runtime that was given an invocation."""
        runtime = await self.connect()
        runtime.ask("GET", f"{RUNTIME}/invocation/next")
        await self.api.settled()
        async with asyncio.TaskGroup() as group:
            outcome = group.create_task(self.run())
            status, headers, body = await runtime.answer()
            assert (status, body) == (200, b'{"a":1}')
            assert headers["lambda-runtime-aws-request-id"] == ID
            assert headers["lambda-runtime-deadline-ms"] == "1700000000000"
            assert headers["lambda-runtime-invoked-function-arn"] == "arn:f"
            assert headers["lambda-runtime-trace-id"].startswith("root=1-")
            try:
                yield runtime, outcome
            finally:
                outcome.cancel()

    @classmethod
    @asynccontextmanager
    async def made(cls) -> AsyncIterator[Side]:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = Server("f")
        api = RuntimeApi("arn:f")
        server.services[VERSION] = api
        await server.start(listener)
        made = cls(api, server, listener)
        yield made
        for connection in made.connections:
            connection.writer.close()
        server.close()
        listener.close()


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with Side.made() as made:
        yield made


async def test_a_response_is_the_outcome_and_the_runtime_is_told_so(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        asked = await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b'{"b":2}')
        assert asked == (202, b'{"status":"OK"}\n')
        assert await outcome == Success(b'{"b":2}', ID)


async def test_a_response_that_is_no_json_becomes_a_string(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b'say "hi"')
        assert await outcome == Success(b'"say \\"hi\\""', ID)


async def test_a_string_that_has_grown_above_the_limit_is_too_large(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", bytes(2_000_000))
        found = await outcome
    assert isinstance(found, FunctionFailed)
    assert found.error_type == "Function.ResponseSizeTooLarge"


async def test_an_error_keeps_its_document_and_takes_its_type_from_the_header(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        document = b'{"errorMessage":"no","trace":[1]}'
        kind = "Lambda-Runtime-Function-Error-Type: Custom.Reason"
        assert (await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/error", document, kind))[0] == 202
        assert await outcome == FunctionFailed("Custom.Reason", "no", document, ID)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"no json",
        b"[1]",
        b'{"errorType": 7}',
        b"\xff",
        pytest.param(b"[" * 9999, id="deep"),
        b'{"x":"\xff"}',
    ],
)
async def test_an_error_without_a_document_is_one_all_the_same(side: Side, document: bytes) -> None:
    async with side.running() as (runtime, outcome):
        assert (await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/error", document))[0] == 202
        found = await outcome
    assert isinstance(found, FunctionFailed)
    assert found.error_type == "Unhandled"
    assert set(msgspec.json.decode(found.payload)) == {"errorType", "errorMessage"}


async def test_an_errors_type_is_short_and_plain_and_its_document_as_it_came(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        document = msgspec.json.encode({"errorType": "Bad\n\x1b[31m" + "E" * 1000, "errorMessage": "no"})
        assert (await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/error", document))[0] == 202
        found = await outcome
    assert isinstance(found, FunctionFailed)
    assert found.error_type.isprintable()
    assert len(found.error_type) <= 256
    assert found.payload == document


async def test_a_streamed_response_comes_in_chunks(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        mode = "Lambda-Runtime-Function-Response-Mode: streaming"
        head = f"POST {RUNTIME}/invocation/{ID}/response HTTP/1.1\r\nHost: x\r\n{mode}\r\n"
        runtime.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for chunk in (b"[1,", b"2", b"]"):
            runtime.writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        runtime.writer.write(b"0\r\n\r\n")
        assert (await runtime.answer())[0] == 202
        assert await outcome == Success(b"[1,2]", ID)


async def test_an_error_in_the_trailers_of_a_stream_fails_the_invocation(side: Side) -> None:
    document = b'{"errorType":"Late","errorMessage":"midway"}'
    async with side.running() as (runtime, outcome):
        names = "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"
        head = f"POST {RUNTIME}/invocation/{ID}/response HTTP/1.1\r\nHost: x\r\nTrailer: {names}\r\n"
        runtime.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n0\r\n".encode())
        body = base64.b64encode(document).decode()
        runtime.writer.write(
            f"Lambda-Runtime-Function-Error-Type: Late\r\n{names[36:]}: {body}\r\n\r\n".encode()
        )
        assert (await runtime.answer())[0] == 202
        assert await outcome == FunctionFailed("Late", "midway", document, ID)


async def test_a_response_of_the_largest_size_passes_and_one_byte_more_fails(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        body = b'"%b"' % (b"x" * (MAX_RESPONSE_BYTES - 2))
        assert (await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", body))[0] == 202
        assert await outcome == Success(body, ID)
    async with side.running() as (runtime, outcome):
        status, answer = await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", body + b" ")
        assert (status, msgspec.json.decode(answer)["errorType"]) == (413, "RequestEntityTooLarge")
        found = await outcome
    assert isinstance(found, FunctionFailed)
    assert found.error_type == "Function.ResponseSizeTooLarge"


async def test_an_endless_response_is_cut_off(side: Side) -> None:
    async with side.running() as (runtime, _):
        runtime.writer.write(f"POST {RUNTIME}/invocation/{ID}/response HTTP/1.1\r\n".encode())
        runtime.writer.write(f"Content-Length: {10 * DISCARD_BYTES}\r\n\r\n".encode())
        piece = b"x" * 1024 * 1024
        with pytest.raises(ConnectionError):
            for _ in range(2 * DISCARD_BYTES // len(piece)):
                runtime.writer.write(piece)
                await runtime.writer.drain()


@pytest.mark.parametrize("what", ["response", "error"])
async def test_an_answer_for_another_request_is_refused_and_changes_nothing(side: Side, what: str) -> None:
    async with side.running() as (runtime, outcome):
        status, answer = await runtime.asked("POST", f"{RUNTIME}/invocation/{'0' * 36}/{what}", b"{}")
        assert (status, msgspec.json.decode(answer)["errorType"]) == (400, "InvalidRequestID")
        await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b"1")
        assert await outcome == Success(b"1", ID)
        status, answer = await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/{what}", b"2")
        assert (status, msgspec.json.decode(answer)["errorType"]) == (403, "InvalidStateTransition")


async def test_next_is_refused_while_an_invocation_runs_or_another_next_waits(side: Side) -> None:
    async with side.running():
        other = await side.connect()
        status, answer = await other.asked("GET", f"{RUNTIME}/invocation/next")
        assert (status, msgspec.json.decode(answer)["errorType"]) == (403, "InvalidStateTransition")
    first, second = await side.connect(), await side.connect()
    side.api.__init__("arn:f")  # type: ignore[misc]  # as new
    first.ask("GET", f"{RUNTIME}/invocation/next")
    await side.api.loaded()
    assert (await second.asked("GET", f"{RUNTIME}/invocation/next"))[0] == 403


async def test_an_init_error_is_told_once_and_only_before_the_first_next(side: Side) -> None:
    runtime = await side.connect()
    document = b'{"errorType":"Runtime.Unknown","errorMessage":"no"}'
    assert (await runtime.asked("POST", f"{RUNTIME}/init/error", document))[0] == 202
    assert await side.api.loaded() == document
    assert (await runtime.asked("POST", f"{RUNTIME}/init/error", document))[0] == 403


async def test_an_end_of_the_runtime_breaks_whatever_waits_for_it(side: Side) -> None:
    async with side.running() as (_, outcome):
        side.api.end(3)
        broken = await outcome
    assert isinstance(broken, Broken)
    assert broken.status == 3
    with pytest.raises(Broken):
        await side.api.settled()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", f"{RUNTIME}/nothing"),
        ("GET", f"{RUNTIME}/init/error"),
        ("POST", f"{RUNTIME}/invocation/next"),
        ("GET", "/2015-01-01/runtime/invocation/next"),
        ("POST", f"{RUNTIME}/invocation/{ID}/{ID}/response"),
    ],
)
async def test_nothing_is_elsewhere(side: Side, method: str, path: str) -> None:
    runtime = await side.connect()
    assert (await runtime.asked(method, path))[0] == 404


async def test_a_client_that_waits_to_be_told_to_go_on_is_told(side: Side) -> None:
    async with side.running() as (runtime, outcome):
        head = f"POST {RUNTIME}/invocation/{ID}/response HTTP/1.1\r\nContent-Length: 1\r\n"
        runtime.writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert (await runtime.answer())[0] == 100
        runtime.writer.write(b"1")
        assert (await runtime.answer())[0] == 202
        assert await outcome == Success(b"1", ID)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 2 * HEADER_BYTES,
        b"GET /" + b"y" * 2 * HEADER_BYTES,
    ],
)
async def test_what_is_no_request_closes_its_connection(side: Side, data: bytes) -> None:
    runtime = await side.connect()
    runtime.writer.write(data)
    assert await runtime.closed()


async def test_half_a_request_holds_nobody_up(side: Side) -> None:
    slow = await side.connect()
    slow.writer.write(f"POST {RUNTIME}/invocation/".encode())
    async with side.running() as (runtime, outcome):
        await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b"1")
        assert await outcome == Success(b"1", ID)


@pytest.mark.parametrize("steps", range(6))
async def test_who_connects_as_the_server_closes_is_sent_away(side: Side, steps: int) -> None:
    with socket.create_connection(("127.0.0.1", side.port)) as late:
        late.setblocking(False)
        for _ in range(steps):  # of the loop, in which the connection is accepted and made
            await asyncio.sleep(0)
        side.server.close()
        side.listener.close()
        async with asyncio.timeout(WITHIN_S):
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(late, 1) == b""
    gc.collect()  # warns of what is left open
