"""What a function may reach of the network: nothing, but what its configuration names."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.egress import endpoints, hosts
from tests.runtime.conftest import MakeRuntime


def sandboxed(test: Any) -> Any:
    """A test on the bwrap driver."""
    skip = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux")
    return pytest.mark.broker(skip(test))


ASK = """
import errno, socket
def handle(event, context):
    try:
        with socket.create_connection((event[0], event[1]), 2) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            return answer.decode()
    except OSError as error:
        return 'no such name' if isinstance(error, socket.gaierror) else errno.errorcode[error.errno]
"""


CLOSED = ("", "ECONNRESET", "ENOTCONN", "EPIPE")
"""What a function sees of a connection that was taken, and then closed."""


class Echo:
    """A server on loopback that answers with what it was sent, twice."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                data = b""
                while piece := sock.recv(65536):
                    data += piece
                sock.sendall(2 * data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@sandboxed
async def test_a_function_reaches_what_is_allowed_and_nothing_else(runtime: MakeRuntime, echo: Echo) -> None:
    other = Echo()
    try:
        async with runtime("bwrap", ASK, network=(f"localhost:{echo.port}",), timeout_s=10.0) as it:
            assert await it.answer(["localhost", echo.port]) == "hellohello"
            assert await it.answer(["127.0.0.1", echo.port]) == "hellohello"
            assert await it.answer(["127.0.0.1", other.port]) == "ECONNREFUSED"
            assert await it.answer(["192.0.2.1", 80]) == "ENETUNREACH"
            assert await it.answer(["example.com", 80]) == "no such name"
    finally:
        other.close()


@sandboxed
async def test_an_endpoint_that_does_not_answer_ends_the_connection_and_is_said(
    runtime: MakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with runtime("bwrap", ASK, network=(f"localhost:{port}",), timeout_s=10.0) as it:
        assert await it.answer(["localhost", port]) in CLOSED
    assert "endpoint not reached" in caplog.text


@sandboxed
async def test_a_name_and_an_address_are_found_as_they_are_declared(
    runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    async def unreachable(host: str, port: int, limit: int) -> None:
        asked.append((host, port))
        raise OSError("nothing leaves this test")

    monkeypatch.setattr(asyncio, "open_connection", unreachable)
    network = ("db.example:5432", "192.0.2.1:80")
    async with runtime("bwrap", ASK, network=network, timeout_s=10.0) as it:
        for host, port in asked_for(network):
            assert await it.answer([host, port]) in CLOSED
    assert asked == asked_for(network)


def asked_for(network: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(host, int(port)) for host, _, port in (text.rpartition(":") for text in network)]


def test_each_name_has_an_address_of_its_own_and_each_address_itself() -> None:
    network = ["db.example:5432", "db.example:5433", "localhost:80", "10.0.0.7:443", "mq.example:5672"]
    found = [(each.host, each.port, each.address) for each in endpoints(network)]
    assert found == [
        ("db.example", 5432, "127.0.1.1"),
        ("db.example", 5433, "127.0.1.1"),
        ("localhost", 80, "127.0.0.1"),
        ("10.0.0.7", 443, "10.0.0.7"),
        ("mq.example", 5672, "127.0.1.2"),
    ]
    assert hosts(network).splitlines() == [
        "127.0.0.1 localhost sandbox sandbox.localdomain",
        "127.0.1.1 db.example",
        "127.0.1.2 mq.example",
    ]


NAMES = st.from_regex(r"[a-z]{1,8}\.example", fullmatch=True)


@given(st.lists(st.tuples(NAMES, st.integers(1, 65535)), max_size=20))
def test_no_two_names_share_an_address(network: list[tuple[str, int]]) -> None:
    found = endpoints([f"{host}:{port}" for host, port in network])
    addresses = {each.host: each.address for each in found}
    assert len(set(addresses.values())) == len(addresses)
    assert {(each.host, each.port) for each in found} == set(network)
