"""The RabbitMQ of the tests: a private server on loopback, from the system's own package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
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

from tests.brokers.postgres import free_port

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
STREAM = "rabbitmq-stream"
USER, PASSWORD = "millstream", "hush-3c9a"
POWERLESS = "powerless"
"""A user with the same password, who has no rights in the vhost `/` and may enter no other."""

KEPT_AFTER_S = 2.5
"""RabbitMQ 3.10 writes what was declared to the disk up to two seconds later, though it has answered."""

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
        self._program = program()
        self._folder = folder
        self.port, self.tls_port, self.stream_port = free_port(), free_port(), free_port()
        self._epmd_port, self._distribution_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "stdout"
        self._declared_at = 0.0
        self.certificate = folder / "certificate.pem"
        self._configure()

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self._epmd is None:
            # Else the server starts one, which outlives it.
            self._epmd = self._run("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        self._process = self._run(str(self._program))
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self.connection().close()
            except (AMQPError, OSError):
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"RabbitMQ did not answer: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a host without power would; not before its queues are on the disk."""
        assert self._process is not None
        time.sleep(max(0.0, self._declared_at + KEPT_AFTER_S - time.monotonic()))
        self._process.kill()
        self._process.wait(ENDED_WITHIN_S)

    def restart(self) -> None:
        """End it and start it again."""
        self._terminate()
        self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It does nothing meanwhile, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and what it needed."""
        self._terminate()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(ENDED_WITHIN_S)

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

    def _configure(self) -> None:
        (self._folder / "definitions.json").write_text(json.dumps(DEFINITIONS))
        (self._folder / "enabled_plugins").write_text("[rabbitmq_stream].\n")
        key = self._folder / "key.pem"
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
        subprocess.run([*make, "-keyout", key, "-out", self.certificate], check=True, capture_output=True)
        settings = {
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "listeners.ssl.default": f"127.0.0.1:{self.tls_port}",
            "ssl_options.certfile": self.certificate,
            "ssl_options.keyfile": key,
            "stream.listeners.tcp.1": f"127.0.0.1:{self.stream_port}",
            "stream.advertised_host": "127.0.0.1",
            "stream.advertised_port": self.stream_port,
            "load_definitions": self._folder / "definitions.json",
            "disk_free_limit.absolute": "50MB",
        }
        lines = "".join(f"{setting} = {value}\n" for setting, value in settings.items())
        (self._folder / "rabbitmq.conf").write_text(lines)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"millstream-{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, so that its pid is the server's
        }

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment(),
                start_new_session=True,
            )

    def _terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(ENDED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()


def program() -> Path:
    """The server's script; skips where there is none, and fails where CI is set."""
    if not PROGRAM.exists():
        why = f"wanted {PROGRAM} (Debian's package rabbitmq-server), found none"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return PROGRAM


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
