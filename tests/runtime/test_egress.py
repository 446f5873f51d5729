"""What a function may reach of the network: nothing, but what its configuration names."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.egress import endpoints, hosts
from tests.runtime.conftest import MakeRuntime
from tests.runtime.echo import ASK, CLOSED


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
