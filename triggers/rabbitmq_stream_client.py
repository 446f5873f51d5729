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
from millstream.amqp.faults import certificate_fault
from millstream.contract.errors import PartitionGone, Refused, SourceUnavailable

HEARTBEAT_S = 60
"""Between two heartbeats, if no other time is declared and the broker proposes none that is shorter."""

FRAME_BYTES = 1024 * 1024
"""Largest frame that we send; those that bring records may be larger. Source: RabbitMQ, "Stream Plugin"."""

FAULTS = (ServerError, ClientError, OSError, AssertionError, ValueError)
"""What rstream raises, and what the network does. It asserts that the broker takes PLAIN logins; a frame
that it cannot read is a ValueError."""


class Failed(ValueError):
    """A connection cannot be used on; the message says why, and holds nothing that was sent."""


@dataclass(frozen=True, slots=True)
class Named:
    """A stream, and how the broker calls us who read it."""

    address: Address
    stream: str
    purpose: str


class StreamClient(Client):
    """rstream's client, with what it keeps to itself.

    A failure is final: what waits for an answer gets it at once, `check` raises it from then on. Nobody
    is cancelled for it, as rstream's waits swallow a cancellation that comes together with an answer.
    """

    def __init__(self, named: Named) -> None:
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
        self.failure: Exception | None = None
        self.stirred = asyncio.Event()  # set by a failure, and by whoever has something to do
        self._left = False

    def fail(self, error: Exception) -> None:
        """End the connection's use, with an error; unless it has ended or was left already."""
        if self.failure is not None or self._left:
            return
        self.failure = error
        for waiter in list(self._waiters.values()):
            if not waiter.done():
                waiter.set_exception(error)
        self.stirred.set()

    def check(self) -> None:
        """Return if the connection may be used on.

        Raises:
            Exception: what `fail` was given.
        """
        if self.failure is not None:
            raise self.failure

    def usable(self) -> bool:
        """Whether nothing has failed so far."""
        return self.failure is None

    def on_stray_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A task of rstream's has failed, which nobody waits for."""
        error = context.get("exception")
        self.fail(error if isinstance(error, FAULTS) else Failed(f"{type(error).__name__} in the client"))

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


def fault(error: Exception, named: Named) -> Refused | SourceUnavailable | PartitionGone:
    """What an error of a connection means; nothing in it is secret."""
    broker = named.address.broker
    where = f"{named.stream} at {broker}"
    match error:
        case StreamDoesNotExist():
            return PartitionGone(f"{where}: there is no such stream")
        case AuthenticationFailure() | SASLError() | SASLAuthenticationFailureLoopback():
            return Refused(f"{broker} refuses the login: {type(error).__name__}")
        case VirtualHostAccessFailure():
            return Refused(f"{broker} does not let us into virtual host {named.address.virtual_host!r}")
        case AccessRefused():
            return Refused(f"{where}: AccessRefused, the stream may not be read by this login")
        case Refused() | SourceUnavailable() | PartitionGone():
            return error
        case OSError():
            refused = certificate_fault(error)
            if refused is not None:
                return Refused(f"{where}: {refused}")
            return SourceUnavailable(f"{where}: {error.strerror or error or type(error).__name__}")
        case Failed():
            return SourceUnavailable(f"{where}: {error}")
        case _:
            return SourceUnavailable(f"{where}: {type(error).__name__}")


@asynccontextmanager
async def connected(named: Named) -> AsyncIterator[StreamClient]:
    """A client that is logged in.

    For an event loop of its own: what fails there without being waited for is the client's failure.

    Raises:
        ServerError: the broker refuses us.
        OSError: it cannot be reached, or does not answer.
        Exception: what `StreamClient.fail` was given.
    """
    logging.getLogger("rstream").setLevel(logging.CRITICAL)  # what it logs, it also raises
    client = StreamClient(named)
    asyncio.get_running_loop().set_exception_handler(client.on_stray_failure)
    try:
        async with asyncio.timeout(LOGIN_S):
            await client.start()
            await client.authenticate(
                named.address.virtual_host, named.address.username, named.address.password
            )
        client.check()
        yield client
    finally:
        await client.leave()


async def find(named: Named) -> None:
    """Look for the stream.

    Raises:
        Refused: there is none, or the login is refused.
        SourceUnavailable: the broker does not answer now.
    """
    try:
        async with connected(named) as client:
            there = await client.stream_exists(named.stream)
            client.check()
    except FAULTS as error:
        raise fault(error, named) from error
    if not there:
        host = named.address.virtual_host
        raise Refused(f"no stream {named.stream!r} in virtual host {host!r} at {named.address.broker}")


async def other_node(client: StreamClient, named: Named) -> Named:
    """The same stream on a node that has it, by the address that the node says it has."""
    leader, replicas = await client.query_leader_and_replicas(named.stream)
    client.check()
    broker = replicas[0] if replicas else leader
    return replace(named, address=replace(named.address, host=broker.host, port=broker.port))
