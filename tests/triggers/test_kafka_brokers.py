"""Clusters of which not every broker lets us in."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.certificates import Authority
from tests.brokers.kafka_secure import SecureKafka
from tests.triggers.kafka_rig import WITHIN_S, opened, produce

pytestmark = pytest.mark.broker


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def strangers(folder: Path, count: int) -> Iterator[tuple[list[str], threading.Event]]:
    """Servers with a certificate that nobody knows, and whether one was met."""
    certificate, key = Authority(folder).issue("stranger", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    met, servers = threading.Event(), [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
                with connection, context.wrap_socket(connection, server_side=True) as sealed:
                    sealed.recv(1)
            except ssl.SSLError:
                met.set()
            except OSError:
                if server.fileno() < 0:
                    return

    threads = [threading.Thread(target=serve, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [f"127.0.0.1:{server.getsockname()[1]}" for server in servers], met
    finally:
        for server in servers:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in threads:
            thread.join(WITHIN_S)


# kafka-python leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_brokers_that_refuse_us_end_no_membership_while_another_answers(
    secure_kafka: SecureKafka, tmp_path: Path, client: str
) -> None:
    topic = secure_kafka.create_topic(1)
    produce(secure_kafka.bootstrap, topic, 0, [b"first"])
    with strangers(tmp_path / "stranger", 4) as (servers, met):
        options: dict[str, Any] = {"ssl_ca_file": str(secure_kafka.ca_file), "client": client}
        listed = ",".join([*servers, secure_kafka.ssl_bootstrap])
        async with opened(listed, topic, **options) as it:
            (lease,) = await it.assigned(count=1)
            reader = await it.source.reader([lease])
            await it.read(reader, 1)
            assert met.wait(WITHIN_S)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4.0):
                    await it.source.change()
            produce(secure_kafka.bootstrap, topic, 0, [b"second"])
            await it.read(reader, 1)
