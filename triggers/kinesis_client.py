"""A client of Kinesis for one mapping: its threads, what it calls the stream, and its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.config import Config
from botocore.eventstream import ParserError
from botocore.exceptions import ClientError
from urllib3.exceptions import HTTPError

from millstream.aws.clients import client_config, new_session
from millstream.aws.source_errors import source_errors
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import InvalidConfiguration, PartitionGone, Problem, SourceUnavailable
from millstream.contract.ports import Host
from millstream.triggers.kinesis_wire import KinesisParsers

THREADS = 16
"""Calls of one mapping at once; one call brings up to 10 MB, and takes well below a second."""

RETRIES: Any = {"mode": "standard", "total_max_attempts": 2}
"""One in place, for what passes at once; for the rest the runner asks again, and holds no thread."""

REFUSED = frozenset({"KMSAccessDeniedException", "KMSDisabledException", "KMSNotFoundException"})
"""Errors of Kinesis that no retry mends. Source: AWS, GetRecords, Errors."""

T = TypeVar("T")


class IteratorExpired(SourceUnavailable):
    """A shard iterator is older than five minutes."""


class PlaceRefused(SourceUnavailable):
    """A sequence number is not of the stream, or a request is wrong otherwise."""


class NotFound(SourceUnavailable):
    """The stream, the consumer or the shard is not there: the service's error does not say which."""


class ConsumerBusy(SourceUnavailable):
    """Another subscription of the consumer to the shard began a moment ago, or took ours over."""


_MEANT = {
    "ExpiredIteratorException": IteratorExpired,
    "InvalidArgumentException": PlaceRefused,
    "ResourceInUseException": ConsumerBusy,
    "ResourceNotFoundException": NotFound,
}


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as declared, and as found."""

    name: str
    arn: str
    called: dict[str, str]  # what requests name it by, as the declaration does: StreamName or StreamARN
    consumer_arn: str | None = None  # enhanced fan-out, by this consumer

    @property
    def by_arn(self) -> dict[str, str]:
        """For requests that name something else of the stream, and may name the stream by ARN only."""
        return self.called if "StreamARN" in self.called else {}


@contextmanager
def kinesis_errors(stream: str) -> Iterator[None]:
    """Turns botocore's faults into ours, and those of a response that is read as it comes."""
    try:
        with source_errors("stream", stream, REFUSED):
            try:
                yield
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "unknown")
                if code in _MEANT:
                    raise _MEANT[code](f"{stream}: {code}") from error
                raise
    except (HTTPError, OSError, ParserError) as error:
        raise SourceUnavailable(f"{stream}: {type(error).__name__}") from error


def new_client(host: Host, region: str | None) -> Any:
    """A client of the region. Raises InvalidConfiguration for an endpoint that is no URL."""
    make: Any = new_session(KinesisParsers()).client  # by name, which the stubs cannot follow
    try:
        return make(
            "kinesis",
            endpoint_url=host.endpoint_url,
            region_name=region or host.region,
            config=client_config(THREADS).merge(Config(retries=RETRIES)),
        )
    except ValueError as error:  # of botocore
        raise InvalidConfiguration([Problem("", "endpoint_url", "a URL", str(error))]) from error


class KinesisCalls:
    """The calls of one mapping. Owns the client, which is closed once nobody uses it any more."""

    def __init__(self, client: Any, stream: Stream) -> None:
        self.stream = stream
        self._client = client
        self._threads = BlockingClient(f"kinesis-{stream.name}", THREADS)
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    async def call(self, work: Callable[[Any], T]) -> T:
        """What `work` makes of the client, in a thread; it maps botocore's errors itself.

        Raises:
            SourceUnavailable: closed.
        """
        if self._closed:
            raise SourceUnavailable(f"{self.stream.name}: closed")
        return await self._threads.call(self._work, work)

    def _work(self, work: Callable[[Any], T]) -> T:
        with self.client() as client:
            return work(client)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client, for threads, which is not closed meanwhile.

        Raises:
            SourceUnavailable: closed.
        """
        with self._lock:
            if self._closed:
                raise SourceUnavailable(f"{self.stream.name}: closed")
            self._users += 1
        try:
            yield self._client
        finally:
            with self._lock:
                self._users -= 1
            self._close_if_unused()

    def errors(self) -> AbstractContextManager[None]:
        """Maps what a call of the client raises."""
        return kinesis_errors(self.stream.name)

    def missing(self, client: Any, shard: str) -> InvalidConfiguration | PartitionGone:
        """Why something was not found: the consumer, the stream, or else the shard."""
        try:
            if self.stream.consumer_arn is not None:
                find_consumer(client, self.stream.consumer_arn)
            find_stream(client, self.stream.called, self.stream.name)
        except InvalidConfiguration as gone:
            return gone
        return PartitionGone(f"{self.stream.name}: {shard} is not there any more")

    def close(self) -> None:
        """Let calls end that are in flight, and take no more."""
        with self._lock:
            self._closed = True
        self._threads.close()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._users:
                self._client.close()


def find_stream(client: Any, called: dict[str, str], name: str) -> dict[str, Any]:
    """The stream's summary.

    Raises:
        InvalidConfiguration: there is no such stream, or it is being deleted.
        SourceUnavailable: no answer, or it is being created.
    """
    try:
        with kinesis_errors(name):
            found: dict[str, Any] = client.describe_stream_summary(**called)
    except (NotFound, PlaceRefused) as error:
        raise _no(f"a stream that is there ({name})", "none") from error
    summary: dict[str, Any] = found["StreamDescriptionSummary"]
    _check_status(summary["StreamStatus"], f"a stream that stays ({name})", name)
    return {**summary, "Date": found["ResponseMetadata"]["HTTPHeaders"].get("date")}


def find_consumer(client: Any, arn: str) -> dict[str, Any]:
    """The description of an enhanced fan-out consumer. Raises as `find_stream`."""
    try:
        with kinesis_errors(arn):
            found = client.describe_stream_consumer(ConsumerARN=arn)
    except (NotFound, PlaceRefused) as error:
        raise _no(f"a consumer that is there ({arn})", "none") from error
    description: dict[str, Any] = found["ConsumerDescription"]
    _check_status(description["ConsumerStatus"], f"a consumer that stays ({arn})", arn)
    return description


def _check_status(status: str, wanted: str, name: str) -> None:
    if status == "CREATING":
        raise SourceUnavailable(f"{name}: is being created")
    if status == "DELETING":
        raise _no(wanted, "one that is being deleted")


def _no(wanted: str, found: str) -> InvalidConfiguration:
    return InvalidConfiguration([Problem("", "stream", wanted, found)])
