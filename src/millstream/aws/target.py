"""What the destinations on AWS services share: a client, calls in threads, one mapping of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from millstream.aws.arn import parse_arn
from millstream.aws.clients import client_config
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration, Problem
from millstream.contract.ports import Host

THREADS = 4

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

P = ParamSpec("P")
T = TypeVar("T")


class AwsTarget:
    """A client of one service and the threads that use it."""

    def __init__(self, service: str, target: str, host: Host) -> None:
        arn = parse_arn(target)
        region = (arn.region if arn is not None else "") or host.region
        session = boto3.session.Session()
        make: Any = session.client  # by name, which the stubs cannot follow
        config = client_config(THREADS)
        self.client: Any = make(service, endpoint_url=host.endpoint_url, region_name=region, config=config)
        self._threads = BlockingClient(f"{service}-destination", THREADS)
        self._target = target

    async def find(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call that looks for the target.

        Raises:
            InvalidConfiguration: it is not there.
            DestinationUnavailable: nobody knows now.
        """

        def looked_for() -> T:
            try:
                return call(*args, **kwargs)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "unknown")
                if code in MISSING:
                    problem = Problem("", "destination", f"{self._target} to be there", code)
                    raise InvalidConfiguration([problem]) from error
                raise

        return await self._threads.call(self._mapped, looked_for)

    async def call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call that hands something over.

        Raises:
            DestinationUnavailable: it was not taken, or nobody knows.
        """
        return await self._threads.call(self._mapped, lambda: call(*args, **kwargs))

    def _mapped(self, call: Callable[[], T]) -> T:
        with _destination_errors(self._target):
            return call()

    async def aclose(self) -> None:
        """Give the connections back."""
        self._threads.close()
        self.client.close()


@contextmanager
def _destination_errors(target: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise DestinationUnavailable(f"{target}: {code}") from error
    except (BotoCoreError, HTTPClientError) as error:
        raise DestinationUnavailable(f"{target}: {type(error).__name__}") from error
