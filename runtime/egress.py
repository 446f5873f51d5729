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
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
NAMED = ipaddress.IPv4Address("127.0.1.1")
"""Address of the first name; the next ones follow."""

READ_BYTES = 64 * 1024
CONNECTIONS = 128
"""At once, per environment. More are closed as they come."""

CONNECT_S = 10.0
"""How long the other end may take to answer a new connection."""


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


def _address(host: str) -> str | None:
    """Of an address itself; None for a name."""
    if host == "localhost":
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

    async def start(self, listeners: Sequence[tuple[socket.socket, Endpoint]]) -> None:
        """Serve sockets that listen."""
        for listener, endpoint in listeners:
            self._servers.append(await self._served(listener, endpoint))

    async def _served(self, listener: socket.socket, endpoint: Endpoint) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._forward(reader, writer, endpoint)

        return await asyncio.start_server(connected, sock=listener, limit=READ_BYTES)

    def close(self) -> None:
        """End all of it."""
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint
    ) -> None:
        if len(self._open) >= 2 * CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                far_reader, far = await asyncio.open_connection(
                    endpoint.host, endpoint.port, limit=READ_BYTES
                )
            self._open.add(far)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far))
                group.create_task(_copy(far_reader, writer))
        except (OSError, TimeoutError) as error:
            extra = {"function": self._function, "endpoint": f"{endpoint.host}:{endpoint.port}"}
            logger.warning("endpoint not reached", extra={**extra, "why": str(error) or "it did not answer"})
        finally:
            for one in (writer, far):
                if one is not None:
                    self._open.discard(one)
                    one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, and then its end."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
