"""Speaks RabbitMQ's stream protocol through rstream, each connection in an event loop of its own.

rstream starts tasks wherever it runs, looks names up in its loop's own threads, and waits for answers
that may not come. So it never runs in the daemon's loop, and a loop of its own ends all of that with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from rstream import schema
from rstream.client import Client
from rstream.exceptions import (
    AccessRefused,
    AuthenticationFailure,
    ClientError,
    SASLAuthenticationFailureLoopback,
    SASLError,
    ServerError,
    StreamDoesNotExist,
    VirtualHostAccessFailure,
)

from millstream.amqp.address import LOGIN_S, Address
from millstream.contract.errors import InvalidConfiguration, PartitionGone, Problem, SourceUnavailable

HEARTBEAT_S = 60
"""Between two heartbeats, if no other time is declared and the broker proposes none that is shorter."""

FRAME_BYTES = 1024 * 1024
"""Largest frame that we send; those that bring records may be larger. Source: RabbitMQ, "Stream Plugin"."""

FAULTS = (ServerError, ClientError, OSError, AssertionError, ValueError)
"""What rstream raises, and what the network does. It asserts that the broker takes PLAIN logins; a frame
that it cannot read is a ValueError."""


@dataclass(frozen=True, slots=True)
class Named:
    """A stream, and how the broker calls us who read it."""

    address: Address
    stream: str
    purpose: str


class StreamClient(Client):
    """rstream's client, with what it keeps to itself. Its failures end the task that made it."""

    def __init__(self, named: Named, task: asyncio.Task[Any]) -> None:
        address = named.address
        super().__init__(
            address.host,
            address.port,
            ssl_context=address.ssl_context() if address.tls else None,
            frame_max=FRAME_BYTES,
            heartbeat=address.heartbeat_s or HEARTBEAT_S,
            connection_name=named.purpose,
            connection_closed_handler=lambda _: self.fail(ConnectionResetError("the connection ended")),
        )
        self.add_stream(named.stream)  # of a connection without a stream no loss is told
        self.failure: BaseException | None = None
        self._left = False
        self._task = task

    def fail(self, error: BaseException) -> None:
        """End the task that made the client, with an error; unless it has left already."""
        if self.failure is None and not self._left:
            self.failure = error
            self._task.cancel()

    def on_stray_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A task of rstream's has failed, which nobody waits for."""
        self.fail(context.get("exception") or RuntimeError("the client failed"))

    @property
    def heartbeat_s(self) -> int:
        """Between two heartbeats, as agreed; 0: there are none."""
        return self._heartbeat

    @property
    def silent(self) -> bool:
        """True once the broker has sent nothing for two heartbeats, which rstream only logs."""
        return 0 < 2 * self._heartbeat < time.monotonic() - self._last_heartbeat

    async def leave(self) -> None:
        """Say so, and close the connection; waits for no answer, as `close` does."""
        self._left = True
        if self._conn is None or self._conn._writer is None:
            return
        if self.is_connection_alive():
            await self.send_frame(schema.Close(self._corr_id_seq.next(), code=1, reason="OK"))
        self._is_not_closed = False
        self._conn._writer.transport.abort()


def fault(error: BaseException, named: Named) -> InvalidConfiguration | SourceUnavailable | PartitionGone:
    """What an error of a connection means; nothing in it is secret."""
    where, broker = f"{named.stream} at {named.address.broker}", named.address.broker
    match error:
        case StreamDoesNotExist():
            return PartitionGone(f"{where}: there is no such stream")
        case AuthenticationFailure() | SASLError() | SASLAuthenticationFailureLoopback():
            problem = Problem("", "basic_auth", f"a login that {broker} takes", type(error).__name__)
        case VirtualHostAccessFailure():
            problem = Problem("", "virtual_host", f"one that {broker} lets us in", named.address.virtual_host)
        case AccessRefused():
            problem = Problem("", "stream", f"{named.stream}, open to us", type(error).__name__)
        case InvalidConfiguration() | SourceUnavailable() | PartitionGone():
            return error
        case OSError():
            return SourceUnavailable(f"{where}: {error.strerror or error or type(error).__name__}")
        case _:
            return SourceUnavailable(f"{where}: {type(error).__name__}")
    return InvalidConfiguration([problem])


@asynccontextmanager
async def connected(named: Named) -> AsyncIterator[StreamClient]:
    """A client that is logged in. When its connection ends, what runs in the context does, too.

    For an event loop of its own: what fails there without being waited for is the client's failure.

    Raises:
        ServerError: the broker refuses us.
        OSError: it cannot be reached, does not answer, or the connection ended.
        BaseException: what `StreamClient.fail` was given.
    """
    logging.getLogger("rstream").setLevel(logging.CRITICAL)  # what it logs, it also raises
    task = asyncio.current_task()
    assert task is not None
    client = StreamClient(named, task)
    asyncio.get_running_loop().set_exception_handler(client.on_stray_failure)
    try:
        async with asyncio.timeout(LOGIN_S):
            await client.start()
            await client.authenticate(
                named.address.virtual_host, named.address.username, named.address.password
            )
        yield client
    except asyncio.CancelledError:
        if client.failure is None or task.uncancel():
            raise
        raise client.failure from None
    finally:
        await client.leave()


async def find(named: Named) -> None:
    """Look for the stream.

    Raises:
        InvalidConfiguration: there is none, or the login is refused.
        SourceUnavailable: the broker does not answer now.
    """
    try:
        async with connected(named) as client:
            there = await client.stream_exists(named.stream)
    except FAULTS as error:
        raise fault(error, named) from error
    if not there:
        raise InvalidConfiguration([Problem("", "stream", "a stream that is there", named.stream)])


async def other_node(client: Client, named: Named) -> Named:
    """The same stream on a node that has it, by the address that the node says it has."""
    leader, replicas = await client.query_leader_and_replicas(named.stream)
    broker = replicas[0] if replicas else leader
    return replace(named, address=replace(named.address, host=broker.host, port=broker.port))
