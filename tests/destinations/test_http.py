"""HTTP as a destination: the kit, and what servers may answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, InvalidConfiguration
from millstream.destinations.http import RETRIES, HttpDestination
from tests.contract.destinations_kit import AWKWARD, SECRET, WITHIN_S, DestinationsKit, Target, host
from tests.destinations.http_server import Answer, HttpServer, http_server


class HttpSide(Target):
    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self.options = {
            "kind": "http",
            "target": f"{server.url}/hook?key={SECRET}",
            "headers": {"Authorization": SECRET},
        }

    def read(self, count: int) -> Sequence[bytes]:
        assert all(sent.headers["Authorization"] == SECRET for sent in self._server.sent)
        assert all(sent.headers["Content-Type"] == "application/json" for sent in self._server.sent)
        return [sent.body for sent in self._server.sent]

    def shrink(self) -> int | None:
        self._server.most_bytes = 2000
        return 2000

    def die(self) -> None:
        self._server.close()


class TestHttp(DestinationsKit):
    bad_options: Sequence[tuple[str, object]] = (
        ("target", "ftp://example.com/"),
        ("target", "https://"),
        ("target", "https://user:password@example.com/"),
        ("target", "https://example.com:99999/"),
        ("target", "https://example.com/a b"),
        ("target", "https://[::1/"),
        ("target", 7),
        ("headers", {"X": "two\nlines"}),
        ("headers", {"X Y": "z"}),
        ("headers", {"Content-Length": "3"}),
        ("headers", {"X": 7}),
        ("headers", "X: y"),
        ("timeout", 0),
        ("timeout", 61),
        ("timeout", "1"),
        ("method", "PUT"),
    )

    @pytest.fixture
    def target(self) -> Iterator[Target]:
        with http_server() as server:
            yield HttpSide(server)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


async def delivered(server: HttpServer, **options: Any) -> str | None:
    """What a delivery to the server came to: the receipt's name, or the fault."""
    destination = HttpDestination.parse({"target": f"{server.url}/hook", **options})
    await destination.open(host(HttpSide(server)))
    try:
        async with asyncio.timeout(WITHIN_S):
            return (await destination.deliver(AWKWARD)).accepted_by
    finally:
        await destination.aclose()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_takes_a_record(server: HttpServer, status: int) -> None:
    server.usual = Answer(status, body=b"")
    assert await delivered(server) == f"{server.url}/hook"


async def test_a_fault_of_the_server_is_tried_again(server: HttpServer) -> None:
    server.answers.extend([Answer(500), Answer(503)])
    assert await delivered(server)
    assert [sent.body for sent in server.sent] == [AWKWARD.body] * 3


async def test_a_server_that_stays_at_fault_is_given_up(server: HttpServer) -> None:
    server.usual = Answer(502)
    with pytest.raises(DestinationUnavailable, match="HTTP status 502"):
        await delivered(server)
    assert len(server.sent) == 1 + RETRIES


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429])
async def test_a_refusal_is_not_tried_again(server: HttpServer, status: int) -> None:
    server.usual = Answer(status)
    with pytest.raises(DestinationUnavailable, match=f"HTTP status {status}") as refused:
        await delivered(server)
    assert len(server.sent) == 1
    assert isinstance(refused.value, DocumentTooLarge) is (status == 413)


@pytest.mark.parametrize(
    "target", [f"http://{'a' * 64}.localhost/", "http://a..localhost/", "http://xn--a.localhost:1/"]
)
async def test_a_name_that_no_resolver_takes_is_a_fault(target: str) -> None:
    destination = HttpDestination.parse({"target": target})
    with http_server() as server:
        await destination.open(host(HttpSide(server)))
    with pytest.raises(DestinationUnavailable):
        await destination.deliver(AWKWARD)
    await destination.aclose()


@pytest.mark.parametrize("headers", [{f"X-{n}": "x" for n in range(200)}, {"X": "x" * 100_000}])
async def test_an_answer_with_headers_that_no_client_reads_is_a_fault(
    server: HttpServer, headers: dict[str, str]
) -> None:
    server.usual = Answer(headers=headers)
    with pytest.raises(DestinationUnavailable):
        await delivered(server)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(server: HttpServer, status: int) -> None:
    server.usual = Answer(status, {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(DestinationUnavailable, match=f"HTTP status {status}"):
        await delivered(server)
    assert [sent.path for sent in server.sent] == ["/hook"]


async def test_a_server_that_hangs_is_given_up(server: HttpServer) -> None:
    server.usual = Answer(hang=True)
    with pytest.raises(DestinationUnavailable) as unavailable:
        await delivered(server, timeout=0.1)
    assert "hook" in str(unavailable.value)


async def test_a_server_does_not_decide_how_long_is_waited(server: HttpServer) -> None:
    server.answers.append(Answer(503, {"Retry-After": "3600"}))
    assert await delivered(server)


async def test_an_answer_of_any_length_is_not_read_to_its_end(server: HttpServer) -> None:
    server.usual = Answer(200, {"Content-Length": str(10**12)}, b"x" * 200_000)
    assert await delivered(server, timeout=1.0)


async def test_connections_are_used_again(server: HttpServer) -> None:
    destination = HttpDestination.parse({"target": server.url})
    await destination.open(host(HttpSide(server)))
    for _ in range(5):
        await destination.deliver(AWKWARD)
    await destination.aclose()
    assert server.connections == 1


def test_the_name_has_no_query_and_the_options_show_no_secret() -> None:
    options = {"target": f"https://e.com/a?key={SECRET}", "headers": {"X": SECRET}, "timeout": "x"}
    with pytest.raises(InvalidConfiguration) as invalid:
        HttpDestination.parse(options)
    assert SECRET not in str(invalid.value)
    assert HttpDestination.parse({**options, "timeout": 1.0}).name == "https://e.com/a"


def test_a_url_with_a_user_is_told_where_to_put_it() -> None:
    with pytest.raises(InvalidConfiguration, match="headers option") as invalid:
        HttpDestination.parse({"target": f"https://user:{SECRET}@e.com/"})
    assert SECRET not in str(invalid.value)
