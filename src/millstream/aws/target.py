"""What the destinations on AWS services share: a client, calls in threads, one mapping of errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from millstream.aws.clients import client_config, new_client
from millstream.aws.source_errors import REFUSED, SIGNED_WRONG, UNUSABLE, code_of, first_line, said
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, MillstreamError, Refused
from millstream.contract.ports import Host

logger = logging.getLogger(__name__)

THREADS = 4

READ_TIMEOUT_S = 10.0
"""No call here is a long poll; with botocore's tries a target that hangs is given up within 40 s."""

NEW_CLIENT_S = 5.0
"""Least time between two clients, the later one made because the credentials of the former are refused."""

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


class CallRefused(DestinationUnavailable):
    """The service answered with an error. `words` are its own; they are for code to look at, not to show."""

    def __init__(self, target: str, code: str, words: str) -> None:
        super().__init__(f"{target}: {code}")
        self.code = code
        self.words = words


class CredentialsRefused(DestinationUnavailable):
    """The service does not know the credentials any more, or this host has none."""


class AwsTarget:
    """A client of one service and the threads that use it. Opened and closed any number of times."""

    def __init__(self, service: str, target: str, region: str) -> None:
        self._service = service
        self._target = target
        self._region = region  # the target's own; empty: the host's
        self._host: Host | None = None
        self._client: Any = None
        self._threads: BlockingClient | None = None
        self._lock = threading.Lock()
        self._made_at = 0.0  # monotonic, of the client

    async def open(self, host: Host, look: Callable[[Any], T]) -> T:
        """Make the client and look for the target with it; what that finds. Leaves nothing if it fails.

        Raises:
            InvalidConfiguration: the endpoint is no URL.
            Refused: the target is not there or refuses us, or this host's AWS settings are wrong.
            DestinationUnavailable: nobody knows now.
        """
        self._host = host
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
            CallRefused: the service did not take it, and said why.
            DestinationUnavailable: it was not taken, or nobody knows.
        """
        if self._threads is None:
            raise DestinationUnavailable(f"{self._target}: closed")
        try:
            return await self._threads.call(self._call, work)
        except RuntimeError as error:  # this host can have no further thread now
            raise DestinationUnavailable(f"{self._target}: {error}") from error

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._threads is not None:
            self._threads.close()
            self._threads = None
            self._client.close()

    def _open(self, host: Host, look: Callable[[Any], T]) -> tuple[Any, T]:
        with _open_errors(self._target), ExitStack() as undo:
            client = self._made(host)
            undo.callback(client.close)
            found = look(client)
            undo.pop_all()
        return client, found

    def _made(self, host: Host) -> Any:
        config = client_config(THREADS).merge(Config(read_timeout=READ_TIMEOUT_S))
        if host.endpoint_url is not None:  # no endpoint of one's own has a host name for each bucket
            config = config.merge(Config(s3={"addressing_style": "path"}))
        return new_client(self._service, host.endpoint_url, self._region or host.region, config)

    def _call(self, work: Callable[[Any], T]) -> T:
        with self._lock:
            client = self._client
        try:
            with _call_errors(self._target):
                return work(client)
        except CredentialsRefused:
            self._renew(client)
            raise

    def _renew(self, refused: Any) -> None:
        """Have the next call made with the credentials as they are by then."""
        now = time.monotonic()
        with self._lock:
            if self._host is None or self._client is not refused or now - self._made_at < NEW_CLIENT_S:
                return
            self._made_at = now
            try:
                with _call_errors(self._target):
                    self._client = self._made(self._host)
            except MillstreamError:
                return
        refused.close()


@contextmanager
def _call_errors(target: str) -> Iterator[None]:
    """Turns whatever a call raises into ours."""
    try:
        yield
    except MillstreamError:
        raise
    except ClientError as error:
        code = code_of(error)
        if code in SIGNED_WRONG:
            raise CredentialsRefused(f"{target}: {code}") from error
        words = str(error.response.get("Error", {}).get("Message") or "")
        raise CallRefused(target, code, words) from error
    except UNUSABLE as error:
        raise CredentialsRefused(f"{target}: {type(error).__name__}") from error
    except Exception as error:  # of botocore, or of what it stands on
        logger.debug("call failed", extra={"target": target}, exc_info=error)
        raise DestinationUnavailable(f"{target}: {type(error).__name__}") from error


@contextmanager
def _open_errors(target: str) -> Iterator[None]:
    """The same while a target is looked for, where what somebody can mend is a refusal."""
    try:
        with _call_errors(target):
            yield
    except CallRefused as error:
        if error.code in MISSING:
            raise Refused(f"{target} is not there ({error.code})") from error
        if error.code in REFUSED and isinstance(error.__cause__, ClientError):
            raise Refused(f"{target}: {said(error.__cause__)}") from error
        raise
    except CredentialsRefused as error:
        cause = error.__cause__
        why = f"{target}: {first_line(str(cause))}" if isinstance(cause, UNUSABLE) else str(error)
        raise Refused(why) from error
