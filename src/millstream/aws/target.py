"""What the destinations on AWS services share: a client, calls in threads, one mapping of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

from millstream.aws.clients import client_config, new_session
from millstream.aws.source_errors import UNUSABLE
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration, Problem
from millstream.contract.ports import Host

THREADS = 4

READ_TIMEOUT_S = 10.0
"""No call here is a long poll; with botocore's tries a target that hangs is given up within 40 s."""

MISSING = frozenset(
    {
        "404",
        "AWS.SimpleQueueService.NonExistentQueue",
        "NoSuchBucket",
        "NotFound",
        "NotFoundException",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
"""Errors that say that the target is not there. Source: the services' models."""

T = TypeVar("T")


class AwsTarget:
    """A client of one service and the threads that use it. Opened and closed any number of times."""

    def __init__(self, service: str, target: str, region: str) -> None:
        self._service = service
        self._target = target
        self._region = region  # the target's own; empty: the host's
        self._client: Any = None
        self._threads: BlockingClient | None = None

    async def open(self, host: Host, look: Callable[[Any], T]) -> T:
        """Make the client and look for the target with it; what that finds. Leaves nothing if it fails.

        Raises:
            InvalidConfiguration: the target is not there, or this host's AWS settings are wrong.
            DestinationUnavailable: nobody knows now.
        """
        threads = BlockingClient(f"{self._service}-destination", THREADS)
        with ExitStack() as undo:
            undo.callback(threads.close)
            self._client, found = await threads.call(self._open, host, look)
            undo.pop_all()
        self._threads = threads
        return found

    async def call(self, work: Callable[[Any], T]) -> T:
        """The answer of a call of the client, which hands something over.

        Raises:
            DestinationUnavailable: it was not taken, or nobody knows.
        """
        if self._threads is None:
            raise DestinationUnavailable(f"{self._target}: closed")
        return await self._threads.call(self._call, work)

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._threads is not None:
            self._threads.close()
            self._threads = None
            self._client.close()

    def _open(self, host: Host, look: Callable[[Any], T]) -> tuple[Any, T]:
        with _destination_errors(self._target, looking=True), ExitStack() as undo:
            client = self._made(host)
            undo.callback(client.close)
            found = look(client)
            undo.pop_all()
        return client, found

    def _made(self, host: Host) -> Any:
        make: Any = new_session().client  # by name, which the stubs cannot follow
        config = client_config(THREADS).merge(Config(read_timeout=READ_TIMEOUT_S))
        if host.endpoint_url is not None:  # no endpoint of one's own has a host name for each bucket
            config = config.merge(Config(s3={"addressing_style": "path"}))
        region = self._region or host.region
        try:
            return make(self._service, endpoint_url=host.endpoint_url, region_name=region, config=config)
        except ValueError as error:  # of botocore, for an endpoint that is no URL
            raise InvalidConfiguration([Problem("", "endpoint_url", "a URL", "none")]) from error

    def _call(self, work: Callable[[Any], T]) -> T:
        with _destination_errors(self._target, looking=False):
            return work(self._client)


@contextmanager
def _destination_errors(target: str, *, looking: bool) -> Iterator[None]:
    """Turns botocore's faults into ours; only while looking for it can a target be a wrong one."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        if looking and code in MISSING:
            raise InvalidConfiguration([Problem("", "target", f"{target} to be there", code)]) from error
        raise DestinationUnavailable(f"{target}: {code}") from error
    except UNUSABLE as error:
        if looking:
            wanted = f"AWS settings that can reach {target}"
            raise InvalidConfiguration([Problem("", "target", wanted, str(error))]) from error
        raise DestinationUnavailable(f"{target}: {type(error).__name__}") from error
    except (BotoCoreError, HTTPClientError, ResponseParserError, UnicodeDecodeError) as error:
        raise DestinationUnavailable(f"{target}: {type(error).__name__}") from error
