"""A TCP relay before a broker: tells what a client sent, and can be cut, stalled and restored."""

from __future__ import annotations

import asyncio
from typing import Self
from urllib.parse import urlsplit

WITHIN_S = 10.0


class Relay:
    """Relays one port of loopback to a broker's URL, in the test's own event loop. Port 0: any free one."""

    def __init__(self, url: str, port: int = 0) -> None:
        target = urlsplit(url)
        self._target = (target.hostname, target.port)
        self._server: asyncio.Server | None = None
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[object]] = set()
        self._heard = bytearray()
        self._hearing = asyncio.Condition()
        self._to_broker, self._to_client = asyncio.Event(), asyncio.Event()  # set: data flows that way
        self.resume()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close every connection and refuse new ones; nothing is stalled any more."""
        self.resume()
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            if self._serving:
                await asyncio.wait(self._serving, timeout=WITHIN_S)
            self._server = None

    def stall(self, *, to_broker: bool = True, to_client: bool = True) -> None:
        """Keep connections open and hold back what is sent over them, one way or both."""
        if to_broker:
            self._to_broker.clear()
        if to_client:
            self._to_client.clear()

    def resume(self) -> None:
        """Let all flow again, what was held back first."""
        self._to_broker.set()
        self._to_client.set()

    async def hears(self, mark: bytes) -> None:
        """Wait until a client has sent `mark`; what was sent before the last call does not count."""
        async with asyncio.timeout(WITHIN_S), self._hearing:
            await self._hearing.wait_for(lambda: mark in self._heard)
            self._heard.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        try:
            await self.serve(reader, writer)
        except* OSError:
            pass  # an end of the connection went away
        finally:
            self._writers.discard(writer)
            self._serving.discard(task)
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until an end of it closes."""
        from_broker, to_broker = await asyncio.open_connection(*self._target)
        self._writers.add(to_broker)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pipe(reader, to_broker, listen=True))
                both.create_task(self._pipe(from_broker, writer, listen=False))
        finally:
            self._writers.discard(to_broker)
            to_broker.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listen: bool) -> None:
        while data := await reader.read(65536):
            if listen:
                async with self._hearing:
                    self._heard += data
                    self._hearing.notify_all()
            await (self._to_broker if listen else self._to_client).wait()
            writer.write(data)
            await writer.drain()
        writer.close()
