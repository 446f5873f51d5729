"""The AWS endpoint of the tests: ministack, a real process on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from millstream.cli.embedded import TEST_CREDENTIALS, AwsEndpoint
from millstream.contract.errors import MillstreamError


class Ministack:
    """A running endpoint, with what tests ask of it."""

    def __init__(self, log: Path) -> None:
        self._endpoint = AwsEndpoint(log)
        self._session = boto3.session.Session()  # one for all clients: to load the models takes 50 ms each
        self.endpoint_url = self._endpoint.url

    def start(self) -> None:
        self._endpoint.start()

    def stop(self) -> None:
        self._endpoint.stop()

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


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One endpoint for the session; a test that stops it starts it again."""
    os.environ.update(TEST_CREDENTIALS)
    running = Ministack(tmp_path_factory.mktemp("ministack") / "log")
    try:
        running.start()
    except MillstreamError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield running
    running.stop()


@pytest.fixture
def own_ministack(tmp_path: Path) -> Iterator[Ministack]:
    """An endpoint that a test may stop and start as it likes."""
    os.environ.update(TEST_CREDENTIALS)
    running = Ministack(tmp_path / "ministack.log")
    running.start()
    yield running
    running.stop()
