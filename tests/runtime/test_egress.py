"""What a function may reach of the network: nothing, but what its configuration names."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.egress import Forwards, endpoints, hosts, may_reach
from tests.runtime.conftest import MakeRuntime
from tests.runtime.echo import ASK, CLOSED, Echo


def sandboxed(test: Any) -> Any:
    """A test on the bwrap driver."""
    skip = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux")
    return pytest.mark.broker(skip(test))


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
async def test_an_endpoint_is_said_once_until_it_answers(
    runtime: MakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with runtime("bwrap", ASK, network=(f"localhost:{port}",), timeout_s=10.0) as it:
        for _ in range(20):
            assert await it.answer(["localhost", port]) in CLOSED
        with closing(Echo(port)):
            assert await it.answer(["localhost", port]) == "hellohello"
        assert await it.answer(["localhost", port]) in CLOSED
    assert [record.message for record in caplog.records] == ["endpoint not reached"] * 2


@pytest.mark.parametrize(
    ("host", "address", "may"),
    [
        ("db.example", "192.0.2.1", True),
        ("db.example", "10.0.0.7", True),
        ("db.example", "2001:db8::1", True),
        ("db.example", "127.0.0.1", False),
        ("db.example", "127.8.9.1", False),
        ("db.example", "169.254.169.254", False),
        ("db.example", "0.0.0.0", False),
        ("db.example", "224.0.0.251", False),
        ("db.example", "::1", False),
        ("db.example", "::", False),
        ("db.example", "::ffff:127.0.0.1", False),
        ("db.example", "::ffff:169.254.169.254", False),
        ("db.example", "fe80::1%eth0", False),
        ("db.example", "ff02::fb", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("169.254.169.254", "169.254.169.254", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost.localstack.cloud", "127.0.0.1", True),
    ],
)
def test_a_name_is_not_this_host_or_its_link_unless_it_says_so(host: str, address: str, may: bool) -> None:
    assert may_reach(host, address) is may


async def test_a_name_that_is_this_host_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with socket.create_server(("127.0.0.1", 0)) as real, socket.create_server(("127.0.0.1", 0)) as near:
        port = real.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        real.settimeout(0.2)
        forwards = Forwards("f")
        near.setblocking(False)
        (endpoint,) = endpoints([f"rebound.example:{port}"])
        await forwards.start([(near.dup(), endpoint)])
        reader, writer = await asyncio.open_connection(*near.getsockname())
        async with asyncio.timeout(5.0):
            with suppress(ConnectionResetError):
                assert await reader.read(1) == b""
            writer.close()
            with suppress(ConnectionResetError):
                await writer.wait_closed()
        with pytest.raises(TimeoutError):
            real.accept()
        forwards.close()
        await asyncio.sleep(0)  # in which its server closes what it listened on
    assert asked == ["rebound.example"]
    assert "declare the address if it is meant" in caplog.records[0].__dict__["why"]


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
