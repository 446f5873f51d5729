"""Publishes over one connection to RabbitMQ, and tells which messages the broker has confirmed."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika

from millstream.amqp.address import Address
from millstream.amqp.connection import ConnectionThread, answer
from millstream.amqp.faults import largest_message, why
from millstream.amqp.wire import Properties

PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Route:
    """Where messages go. `exchange` "": to the queue that `routing_key` names."""

    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The broker does not hold a message, or nobody knows."""

    why: str


@dataclass(frozen=True, slots=True)
class TooLarge(NotTaken):
    """The broker takes no message of that size."""

    most_bytes: int


class Publisher:
    """One connection in confirm mode.

    opening ── the route's exchange or queue is there ──► ready ──► over
    """

    def __init__(self, address: Address, route: Route, purpose: str) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[bool] = loop.create_future()  # False: it is over
        self._loop = loop
        self._route = route
        self._thread = ConnectionThread(address, purpose, self._on_channel, self._on_over)
        self._channel: Any = None
        self._waiting: set[asyncio.Future[NotTaken | None]] = set()  # of the event loop
        # Of the thread: by the number of the publish, from 1 on, and by its message id.
        self._published = 0
        self._unconfirmed: dict[int, tuple[str, asyncio.Future[NotTaken | None]]] = {}
        self._returned: dict[str, str] = {}

    @property
    def over(self) -> bool:
        """True once the connection is gone."""
        return self._thread.over

    @property
    def error(self) -> BaseException | None:
        """Why it is over."""
        return self._thread.error

    def start(self) -> None:
        """Connect."""
        self._thread.start()

    async def publish(self, body: bytes, written_at: float) -> NotTaken | None:
        """None once the broker has taken the message over, and routed it; else why it did not."""
        confirm: asyncio.Future[NotTaken | None] = self._loop.create_future()
        self._waiting.add(confirm)
        try:
            if self._thread.call(partial(self._publish, body, int(written_at), confirm)):
                not_taken = await confirm
            else:
                not_taken = NotTaken(why(self.error))
        finally:
            self._waiting.discard(confirm)
        most_bytes = None if not_taken is None else largest_message(self.error)
        if not_taken is not None and most_bytes is not None and len(body) > most_bytes:
            return TooLarge(not_taken.why, most_bytes)
        return not_taken

    async def aclose(self) -> None:
        """End within a second; what is not confirmed by then is not known to be taken."""
        await self._thread.aclose()

    def _on_over(self) -> None:
        answer(self.ready, False)()
        for confirm in self._waiting:
            answer(confirm, NotTaken(why(self.error)))()

    # ---- called in the connection's thread

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        if self._route.exchange:
            channel.exchange_declare(self._route.exchange, passive=True, callback=self._on_found)
        else:
            channel.queue_declare(self._route.routing_key, passive=True, callback=self._on_found)

    def _on_found(self, _: object) -> None:
        self._channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, _: object) -> None:
        self._thread.tell(answer(self.ready, True))

    def _publish(self, body: bytes, timestamp: int, confirm: asyncio.Future[NotTaken | None]) -> None:
        if not self._channel.is_open:
            self._thread.tell(answer(confirm, NotTaken(why(self.error))))
            return
        message_id = str(uuid.uuid4())  # tells which message it is that comes back
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=message_id,
            timestamp=timestamp,
        )
        try:
            self._channel.basic_publish(
                self._route.exchange, self._route.routing_key, body, properties, mandatory=True
            )
        except Exception as error:  # noqa: BLE001  # pika's: it was not sent
            self._thread.tell(answer(confirm, NotTaken(why(error))))
            return
        self._published += 1
        self._unconfirmed[self._published] = message_id, confirm

    def _on_return(self, _: object, method: Any, properties: Properties, body: bytes) -> None:
        """The message has no queue to go to. Its confirm follows."""
        self._returned[str(properties.message_id)] = f"{method.reply_code} {method.reply_text}"

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        taken = isinstance(method, pika.spec.Basic.Ack)
        numbers = [method.delivery_tag]
        if method.multiple:
            numbers = [number for number in self._unconfirmed if number <= method.delivery_tag]
        for number in numbers:
            message_id, confirm = self._unconfirmed.pop(number)
            reason = self._returned.pop(message_id, None if taken else "the broker refused the message")
            self._thread.tell(answer(confirm, None if reason is None else NotTaken(reason)))
