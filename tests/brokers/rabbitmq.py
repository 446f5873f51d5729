"""The RabbitMQ of the tests: a private server on loopback."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
import pytest
from pika.exceptions import AMQPError

from tests.brokers.provider import Server, provided
from tests.brokers.rabbitmq_server import LocalRabbitMq, Ports, RabbitMqContainer, certificate

STREAM = "rabbitmq-stream"
USER, PASSWORD = "millstream", "hush-3c9a"
POWERLESS = "powerless"
"""A user with the same password, who has no rights in the vhost `/` and may enter no other."""

KEPT_AFTER_S = 2.5
"""RabbitMQ 3.10 writes what was declared to the disk up to two seconds later, though it has answered."""

STARTS = 3
READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 20.0

DEFINITIONS: dict[str, Any] = {
    "users": [
        {"name": USER, "password": PASSWORD, "tags": "administrator"},
        {"name": POWERLESS, "password": PASSWORD, "tags": ""},
    ],
    "vhosts": [{"name": "/"}, {"name": "other"}, {"name": "a/b c"}],
    "permissions": [
        {"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": USER, "vhost": "other", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": USER, "vhost": "a/b c", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": POWERLESS, "vhost": "/", "configure": "", "write": "", "read": ""},
    ],
}


class RabbitMqServer:
    """A server in a folder of its own; may be killed and started again on the same ports."""

    def __init__(self, folder: Path) -> None:
        ports = Ports()
        self.port, self.tls_port, self.stream_port = ports.amqp, ports.tls, ports.stream
        self.certificate = certificate(folder)
        self._declared_at = 0.0

        def local() -> Server:
            return LocalRabbitMq(folder, ports, DEFINITIONS)

        def container() -> Server:
            return RabbitMqContainer(folder, ports, DEFINITIONS)

        self._server = provided("RabbitMQ", local=local, containers=container)

    def start(self) -> None:
        """Start it and wait until it answers.

        A client that tries to connect to a port where nobody listens may meet itself there, and hold the port
        for a moment: the server that finds it taken ends, and is started again.
        """
        until = time.monotonic() + READY_WITHIN_S
        for _ in range(STARTS):
            self._server.start()
            while time.monotonic() < until and self._server.running():
                try:
                    self.connection().close()
                except (AMQPError, OSError):
                    time.sleep(0.1)
                else:
                    return
        raise TimeoutError(f"RabbitMQ did not answer: {self._server.log()[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a host without power would; not before its queues are on the disk."""
        time.sleep(max(0.0, self._declared_at + KEPT_AFTER_S - time.monotonic()))
        self._server.kill()

    def restart(self) -> None:
        """End it and start it again."""
        self._server.stop()
        self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It does nothing meanwhile, and its connections stay open."""
        self._server.pause()
        try:
            yield
        finally:
            self._server.resume()

    def close(self) -> None:
        """End it, and what it needed."""
        self._server.remove()

    def url(self, virtual_host: str = "/", *, user: str = USER, port: int | None = None) -> str:
        return f"amqp://{user}:{PASSWORD}@127.0.0.1:{port or self.port}/{quote(virtual_host, safe='')}"

    def stream_url(self, virtual_host: str = "/", *, user: str = USER, port: int | None = None) -> str:
        """The same for the stream protocol."""
        return self.url(virtual_host, user=user, port=port or self.stream_port).replace("amqp", STREAM, 1)

    def connection(self, virtual_host: str = "/") -> Any:
        """A connection of the tests' own; who asks for it closes it."""
        parameters = pika.ConnectionParameters(
            "127.0.0.1", self.port, virtual_host, pika.PlainCredentials(USER, PASSWORD), heartbeat=0
        )
        return pika.BlockingConnection(parameters)

    @contextmanager
    def channel(self, virtual_host: str = "/") -> Iterator[Any]:
        """A channel that confirms what is published."""
        connection = self.connection(virtual_host)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def queue(
        self, kind: str = "quorum", *, name: str = "", virtual_host: str = "/", **arguments: Any
    ) -> str:
        """A new queue's name; `single_active_consumer=True` becomes `x-single-active-consumer`."""
        name = name or f"q-{uuid.uuid4().hex[:12]}"
        given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        with self.channel(virtual_host) as channel:
            channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind, **given})
        self._declared_at = time.monotonic()
        return name

    def publish(self, queue: str, *bodies: bytes, virtual_host: str = "/", **properties: Any) -> None:
        """Messages that the broker holds when this returns."""
        given = pika.BasicProperties(**{"delivery_mode": 2, **properties})
        with self.channel(virtual_host) as channel:
            for body in bodies:
                channel.basic_publish("", queue, body, given, mandatory=True)

    def publish_many(self, queue: str, bodies: Iterable[bytes]) -> None:
        """The same for many at once, to a queue that is empty and that nobody reads."""
        connection = self.connection()
        try:
            channel = connection.channel()
            given = pika.BasicProperties(delivery_mode=2)
            sent = 0
            for body in bodies:
                channel.basic_publish("", queue, body, given)
                sent += 1
            until = time.monotonic() + READY_WITHIN_S
            while channel.queue_declare(queue, passive=True).method.message_count < sent:
                if time.monotonic() > until:
                    raise TimeoutError(f"{queue}: {sent} messages were sent, fewer arrived")
                time.sleep(0.01)
        finally:
            connection.close()

    def ready(self, queue: str, virtual_host: str = "/") -> int:
        """Messages that wait on the queue, without those that a consumer holds."""
        with self.channel(virtual_host) as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def delete(self, queue: str) -> None:
        with self.channel() as channel:
            channel.queue_delete(queue)

    def bodies(self, queue: str, count: int) -> list[bytes]:
        """Takes `count` messages off a queue, once there are as many."""
        found: list[bytes] = []
        until = time.monotonic() + ENDED_WITHIN_S
        with self.channel() as channel:
            while len(found) < count and time.monotonic() < until:
                method, _, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    time.sleep(0.01)
                else:
                    found.append(body)
        return found


@contextmanager
def server() -> Iterator[RabbitMqServer]:
    """A running server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-rabbitmq-"))
    try:
        running = RabbitMqServer(folder)
        try:
            running.start()
            yield running
        finally:
            running.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMqServer]:
    """One server for the session; tests make queues of their own, and leave it running."""
    with server() as running:
        yield running


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMqServer]:
    """A server that a test may kill and start as it likes."""
    with server() as running:
        yield running
