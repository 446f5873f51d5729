"""How the command line talks to a running daemon: a Unix socket, one JSON line each way.

The daemon answers its own user and root; the command line believes the data directory's owner and root.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.errors import MillstreamError, StateUnavailable
from millstream.contract.functions import MAX_PAYLOAD_BYTES
from millstream.daemon.peers import ROOT, peer_uid, reachable

LINE_BYTES = 2 * MAX_PAYLOAD_BYTES + 65536
"""Longest line: a payload of 6 MB, escaped."""

ANSWER_S = 960.0
"""How long the command line waits: the longest function and some."""


class NoDaemon(MillstreamError):
    """No daemon answers on the data directory."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What the command line asks: `op` is "mappings", "functions" or "invoke"."""

    op: str
    function: str = ""
    payload: str = ""
    backlog: bool = True  # whether each source is asked how much waits


Handler = Callable[[Request], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def served(path: Path, handler: Handler) -> AsyncIterator[None]:
    """Answer requests while the context lasts."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if peer_uid(writer.get_extra_info("socket")) not in (os.geteuid(), ROOT):
                return
            line = await reader.readline()
            try:
                reply = await handler(msgspec.json.decode(line, type=Request))
            except (msgspec.MsgspecError, MillstreamError) as error:
                reply = {"error": str(error)}
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            pass  # the other side went away, or sent a line beyond the limit
        finally:
            writer.close()

    with _placed(path) as place:
        _remove(place)  # left by a daemon that was killed; the lock says that none runs
        mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(answer, place, limit=LINE_BYTES)
        finally:
            os.umask(mask)
        try:
            async with server:
                yield
        finally:
            _remove(place)


@contextmanager
def _placed(path: Path) -> Iterator[Path]:
    try:
        with reachable(path) as place:
            yield place
    except PermissionError as error:
        raise StateUnavailable(f"{path}: its socket cannot be made: {error}") from error


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def ask(path: Path, request: Request) -> dict[str, Any]:
    """The daemon's answer.

    Raises:
        NoDaemon: none listens there, or one of another user than the directory's owner and root.
    """
    try:
        with reachable(path) as place, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(os.fspath(place))
            if peer_uid(connection) not in (path.parent.stat().st_uid, ROOT):
                raise NoDaemon("what answers is not of the data directory's owner, nor root's")
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as answer:
                line = answer.readline()
    except OSError as error:
        raise NoDaemon(f"no daemon answers: {error.strerror or error}") from error
    if not line:
        raise NoDaemon("the daemon stopped before it answered")
    reply: dict[str, Any] = msgspec.json.decode(line)
    return reply
