"""The AWS endpoint of the tests: ministack, on loopback."""

from __future__ import annotations

import http.client
import importlib.util
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest

from millstream.cli.embedded import TEST_CREDENTIALS, AwsEndpoint
from tests.brokers.containers import Container
from tests.brokers.ports import free_port
from tests.brokers.provider import Unavailable, provided

READY_WITHIN_S = 60.0


class Endpoint(Protocol):
    """A process or a container; both take and give the same port when they are started again."""

    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def remove(self) -> None: ...


class Ministack:
    """A running endpoint, with what tests ask of it."""

    def __init__(self, log: Path) -> None:
        def local() -> Endpoint:
            return LocalEndpoint(log)

        self._endpoint = provided("ministack", local=local, containers=AwsContainer)
        self._session = boto3.session.Session()  # one for all clients: to load the models takes 50 ms each
        self.endpoint_url = self._endpoint.url

    def start(self) -> None:
        self._endpoint.start()

    def stop(self) -> None:
        """End it; what its queues held is gone."""
        self._endpoint.stop()

    def close(self) -> None:
        """End it for good."""
        self._endpoint.remove()

    def client(self, service: str) -> Any:
        """A boto3 client of this endpoint."""
        return self._session.client(service, endpoint_url=self.endpoint_url)  # type: ignore[call-overload]

    def queue(self, fifo: bool = False, **attributes: str) -> str:
        """A new queue's URL."""
        name = f"q-{uuid.uuid4().hex[:12]}{'.fifo' if fifo else ''}"
        if fifo:
            attributes = {"FifoQueue": "true", **attributes}
        url: str = self.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url


class LocalEndpoint(AwsEndpoint):
    """A process of the installed package.

    Raises:
        Unavailable: it is not installed.
    """

    def __init__(self, log: Path) -> None:
        if importlib.util.find_spec("ministack") is None:
            raise Unavailable("wanted ministack (pip install 'millstream[demo]'), found none")
        super().__init__(log)

    def remove(self) -> None:
        """End it for good."""
        self.stop()


class AwsContainer(Container):
    """The same endpoint in a container.

    Raises:
        Unavailable: no Docker engine answers, or it can have no such image.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        # The same port inside, as it names itself in the URLs of queues.
        settings = {"BIND_HOST": "0.0.0.0", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(self._port)}
        super().__init__("aws", {self._port: self._port}, settings)

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self.running():
            if self._answers():
                return
            time.sleep(0.1)
        raise TimeoutError(f"ministack did not answer: {self.log()[-2000:]}")

    def _answers(self) -> bool:
        """A connection alone says nothing: Docker takes it before the endpoint listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1.0)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def stop(self) -> None:
        """End it at once, as it keeps nothing."""
        self.kill()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One endpoint for the session; a test that stops it starts it again."""
    os.environ.update(TEST_CREDENTIALS)
    yield from _running(tmp_path_factory.mktemp("ministack") / "log")


@pytest.fixture
def own_ministack(tmp_path: Path) -> Iterator[Ministack]:
    """An endpoint that a test may stop and start as it likes."""
    os.environ.update(TEST_CREDENTIALS)
    yield from _running(tmp_path / "ministack.log")


def _running(log: Path) -> Iterator[Ministack]:
    running = Ministack(log)
    try:
        running.start()
        yield running
    finally:
        running.close()
