"""RabbitMQ as a destination: records are published persistent and mandatory, and confirms waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, Field

from millstream.amqp.address import AMQP, Address, declared_url, parse_address
from millstream.amqp.faults import refusal, why
from millstream.amqp.options import SECRET_FIELDS, LoginOptions
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, Problem, Refused
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.rabbitmq_publisher import NotTaken, Publisher, Route, TooLarge
from millstream.destinations.targets import parse_target

LIMIT_BYTES = 16 * 1024 * 1024
"""Source: RabbitMQ, "Configuration", max_message_size, the default of RabbitMQ 4."""

WINDOW = 500
"""Records that may wait for their confirms at once."""

CONFIRMED_WITHIN_S = 20.0
"""How long a delivery may take, a new connection included."""

TARGET = "an amqp:// URL with a route (amqp://rabbit.example.com/vhost?exchange=failed&routing_key=orders)"


def _route(target: str) -> Route:
    """Where a target's messages go.

    Raises:
        ValueError: it is not a target. The message repeats nothing of it.
    """
    try:
        pairs = parse_qsl(
            urlsplit(target).query, keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:
        raise ValueError(TARGET) from None
    given = dict(pairs)
    if len(given) < len(pairs) or not set(given) <= {"exchange", "routing_key"} or not any(given.values()):
        raise ValueError(TARGET)
    if any(len(name.encode()) > 255 for name in given.values()):
        raise ValueError("names of an exchange and a routing key of at most 255 bytes")
    return Route(given.get("exchange", ""), given.get("routing_key", ""))


def _address(target: str) -> Address | None:
    """Where a target's broker is. None: the target does not say, and the environment does not either."""
    parts = urlsplit(target)
    url = parts._replace(query="").geturl()
    if not parts.netloc and parts.path in ("", "/"):
        declared = declared_url(None)
        return None if declared is None else parse_address(declared)
    return parse_address(url)


def _target(target: str) -> str:
    if not RabbitMqDestination.claims(target):
        raise ValueError(TARGET)
    _route(target)
    _address(target)
    return target


class RabbitMqDestinationOptions(LoginOptions):
    """`target` is a broker's URL with a route; without a host the broker is that of the environment.

    `?routing_key=Q` alone is the queue Q; with `exchange=E` the record goes to that exchange.
    """

    target: Annotated[str, AfterValidator(_target)] = Field(repr=False)

    def misfits(self) -> list[Problem]:
        if not self.target:  # it is missing, or wrong
            return []
        try:
            address = _address(self.target)
        except ValueError:
            return [Problem("", "target", f"a broker's URL in {AMQP.variable}", "something else there")]
        if address is None:
            return [Problem("", "target", f"a host in it, or a broker's URL in {AMQP.variable}", "neither")]
        return self.ca_file_misfits(address)


class RabbitMqDestination:
    """Implements Destination. A lost connection is made anew with the next delivery."""

    payload = Payload.EVENT

    def __init__(self, options: RabbitMqDestinationOptions) -> None:
        self.limit_bytes = LIMIT_BYTES  # or less, once the broker has said so
        self._route = _route(options.target)
        address = _address(options.target)
        assert address is not None  # checked as the options were made
        self._address = options.applied(address)
        route = {"exchange": self._route.exchange, "routing_key": self._route.routing_key}
        self.name = f"{self._address.name}?{urlencode({k: v for k, v in route.items() if v})}"
        self._publisher: Publisher | None = None
        self._window: asyncio.Semaphore | None = None  # None: not open

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.lower().startswith(("amqp://", "amqps://"))

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(RabbitMqDestinationOptions, options, SECRET_FIELDS))

    async def open(self, host: Host) -> None:
        """Connect, and look for the exchange, or for the queue.

        Raises:
            Refused: it is not there, or the login is refused.
            DestinationUnavailable: the broker does not answer now.
        """
        publisher = self._connecting()
        self._window = asyncio.Semaphore(WINDOW)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.aclose)
            if await asyncio.shield(publisher.ready):
                stack.pop_all()
                return
        refused = refusal(publisher.error, self._address, self.name)
        if refused is not None:
            raise Refused(refused)
        raise DestinationUnavailable(f"{self.name}: {why(publisher.error)}")

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self._window is None:
            raise DestinationUnavailable(f"{self.name}: closed")
        publisher: Publisher | None = None
        try:
            async with asyncio.timeout(CONFIRMED_WITHIN_S), self._window:
                publisher = self._connecting()
                if await asyncio.shield(publisher.ready):
                    not_taken = await publisher.publish(record.body, record.written_at)
                else:
                    not_taken = NotTaken(why(publisher.error))
        except TimeoutError:
            if publisher is not None:  # what it could not send would wait in memory, beside each further try
                await publisher.aclose()
            raise DestinationUnavailable(f"{self.name}: no confirm in {CONFIRMED_WITHIN_S:g} s") from None
        except Refused as refused:  # certificates that cannot be read any more
            raise DestinationUnavailable(f"{self.name}: {refused}") from refused
        match not_taken:
            case None:
                return DestinationReceipt(self.name)
            case TooLarge(why=reason, most_bytes=most_bytes):
                self.limit_bytes = min(self.limit_bytes, most_bytes)
                raise DocumentTooLarge(f"{self.name}: {reason}")
            case NotTaken(why=reason):
                raise DestinationUnavailable(f"{self.name}: {reason}")

    async def aclose(self) -> None:
        self._window = None
        if self._publisher is not None:
            await self._publisher.aclose()
            self._publisher = None

    def _connecting(self) -> Publisher:
        """The publisher, perhaps not ready yet; a new one if there is none, or not any more."""
        if self._publisher is None or self._publisher.over:
            self._publisher = Publisher(self._address, self._route, "millstream-destination")
            self._publisher.start()
        return self._publisher
