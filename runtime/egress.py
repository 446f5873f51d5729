"""What a function may reach: listeners in its own network, which the daemon forwards, one by one.

The function has no other network. It finds `db.example:5432` by its name, which its hosts file gives a
loopback address of its own; an IPv4 address is put on its loopback interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from millstream.runtime.rates import RateLimit

logger = logging.getLogger(__name__)

LOOPBACK, LOCAL = "127.0.0.1", "localhost"
NAMED = ipaddress.IPv4Address("127.0.1.1")
"""Address of the first name; the next ones follow."""

READ_BYTES = 64 * 1024
CONNECTIONS = 128
"""At once, per environment. More are closed as they come."""

CONNECT_S = 10.0
"""How long the other end may take to answer a new connection."""

CONNECTS_PER_S, CONNECTS_BURST = 200.0, 128.0
"""New connections of an environment; more of them wait, so that others of the daemon have their turn."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`host` and `port` as declared; `address` is where the function finds it."""

    host: str
    port: int
    address: str


def endpoints(network: Sequence[str]) -> list[Endpoint]:
    """The endpoints of `host:port` texts, in their order."""
    addresses: dict[str, str] = {}
    found = []
    for text in dict.fromkeys(network):
        host, _, port = text.rpartition(":")
        if host not in addresses:
            named = sum(address.startswith("127.0.1.") for address in addresses.values())
            addresses[host] = _address(host) or str(NAMED + named)
        found.append(Endpoint(host, int(port), addresses[host]))
    return found


def may_reach(host: str, address: str) -> bool:
    """False for this host itself and for its link, where the declaration does not say so in words.

    Who runs a name may have it resolve to anything: to the daemon's loopback, to a cloud's metadata service.
    """
    if _address(host) is not None or LOCAL in host.lower().split("."):
        return True
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    meant = found if mapped is None else mapped
    return not (meant.is_loopback or meant.is_link_local or meant.is_unspecified or meant.is_multicast)


def _address(host: str) -> str | None:
    """Of an address itself; None for a name."""
    if host == LOCAL:
        return LOOPBACK
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv4Address(host))
    return None


def hosts(network: Sequence[str]) -> str:
    """The hosts file of a function."""
    names = {each.host: each.address for each in endpoints(network) if _address(each.host) is None}
    own = "127.0.0.1 localhost sandbox sandbox.localdomain\n"
    return own + "".join(f"{address} {name}\n" for name, address in names.items())


class Forwards:
    """Forwards what connects to the listeners of one environment."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._connects = RateLimit(CONNECTS_PER_S, CONNECTS_BURST)

    async def start(self, listeners: Sequence[tuple[socket.socket, Endpoint]]) -> None:
        """Serve sockets that listen."""
        for listener, endpoint in listeners:
            self._servers.append(await self._served(listener, endpoint))

    async def _served(self, listener: socket.socket, endpoint: Endpoint) -> asyncio.Server:
        far_end = _FarEnd(self._function, endpoint)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._forward(reader, writer, far_end)

        return await asyncio.start_server(connected, sock=listener, limit=READ_BYTES)

    def close(self) -> None:
        """End all of it."""
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far_end: _FarEnd
    ) -> None:
        if len(self._open) >= 2 * CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            await asyncio.sleep(self._connects.count(time.monotonic()))
            opened = await far_end.connect()
            if opened is not None:
                far_reader, far = opened
                self._open.add(far)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, far))
                    group.create_task(_copy(far_reader, writer))
        finally:
            for one in (writer, far):
                if one is not None:
                    self._open.discard(one)
                    one.transport.abort()


class _FarEnd:
    """One endpoint as the daemon reaches it: resolved once, and again where it does not answer any more."""

    def __init__(self, function: str, endpoint: Endpoint) -> None:
        self._function = function
        self._endpoint = endpoint
        self._addresses: list[str] = []
        self._resolving = asyncio.Lock()
        self._said = False

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection. None: there is none, which is said once until there is one again."""
        try:
            async with asyncio.timeout(CONNECT_S):
                opened = await self._open()
        except (OSError, TimeoutError) as error:
            self._addresses = []
            self._say(str(error) or "it did not answer")
            return None
        self._said = False
        return opened

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failed = OSError("no address")
        for address in await self._resolved():
            try:
                return await asyncio.open_connection(address, self._endpoint.port, limit=READ_BYTES)
            except OSError as error:
                failed = error
        raise failed

    async def _resolved(self) -> list[str]:
        """Resolve it, to at least one address. Raises OSError."""
        async with self._resolving:
            if not self._addresses:
                host, port = self._endpoint.host, self._endpoint.port
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
                self._addresses = [each for each in addresses if may_reach(host, each)]
                if not self._addresses:
                    why = "which is this host, its link, or no host: declare the address if it is meant"
                    raise OSError(f"{host} is {', '.join(addresses[:3])}, {why}")
            return self._addresses

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
            place = f"{self._endpoint.host}:{self._endpoint.port}"
            extra = {"function": self._function, "endpoint": place, "why": why}
            logger.warning("endpoint not reached", extra=extra)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, and then its end."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
