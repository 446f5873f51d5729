"""A client of Kinesis for one mapping: its threads, what it calls the stream, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from millstream.aws.clients import client_config, service_time
from millstream.aws.clients import new_client as client_of
from millstream.aws.record_pages import PageUnreadable, UnreadablePage
from millstream.aws.shared_client import SharedClient
from millstream.aws.source_errors import code_of, source_errors
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import MillstreamError, PartitionGone, Refused, SourceUnavailable
from millstream.contract.ports import Host
from millstream.triggers.kinesis_wire import parsers

THREADS = 16
"""Calls of one mapping at once; one call brings up to 10 MB, and takes well below a second."""

RETRIES: Any = {"mode": "standard", "total_max_attempts": 2}
"""One in place, for what passes at once; for the rest the runner asks again, and holds no thread."""

REFUSED = frozenset(
    {
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "KMSOptInRequired",
    }
)
"""Errors of Kinesis that stay until somebody mends something. Source: AWS, GetRecords, Errors."""


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
    with source_errors("stream", stream, REFUSED):
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code in _MEANT:
                raise _MEANT[code](f"{stream}: {code}") from error
            raise
        except UnreadablePage as error:
            raise PageUnreadable(f"{stream}: {error}") from error


def new_client(host: Host, region: str | None) -> Any:
    """A client of the region. Raises InvalidConfiguration for an endpoint that is no URL."""
    config = client_config(THREADS).merge(Config(retries=RETRIES))
    return client_of("kinesis", host.endpoint_url, region or host.region, config, parsers())


class SameStream:
    """Tells a reader that its stream was made anew; `identity` is the source's, as of its last list."""

    def __init__(self, shard: str, identity: Callable[[], str | None] = lambda: None) -> None:
        self._shard = shard
        self._identity = identity
        self._known = identity()

    def check(self) -> None:
        """Raises PartitionGone if the stream is another one than when this was made."""
        self.compare(self._identity())

    def compare(self, now: str | None) -> None:
        """As `check`, for the identity that the stream has now."""
        if None not in (self._known, now) and self._known != now:
            raise PartitionGone(f"{self._shard} is of a stream that was made anew")


class KinesisCalls:
    """The calls of one mapping, which map botocore's errors themselves."""

    def __init__(self, client: Any, stream: Stream) -> None:
        self.stream = stream
        shared = SharedClient(client, stream.name, BlockingClient(f"kinesis-{stream.name}", THREADS))
        self.call, self.client, self.close = shared.call, shared.client, shared.close

    def errors(self) -> AbstractContextManager[None]:
        """Maps what a call of the client raises."""
        return kinesis_errors(self.stream.name)

    def shards(self, client: Any) -> list[dict[str, Any]]:
        """All shards that the stream lists.

        Raises:
            NotFound: there is no such stream.
            SourceUnavailable: no answer.
        """
        shards: list[dict[str, Any]] = []
        asked = self.stream.called
        while True:
            with self.errors():
                answer = client.list_shards(**asked)
                shards += answer["Shards"]
                token = answer.get("NextToken")
            if not token:
                return shards
            asked = {**self.stream.by_arn, "NextToken": token}

    def missing(self, client: Any, shard: str) -> MillstreamError:
        """Why something was not found: the consumer, the stream, or else the shard.

        A shard is gone only if the list does not have it any more: one answer alone proves nothing. The list
        leaves out what is past its retention. Source: AWS, ListShards, "does not list expired shards".
        """
        name = self.stream.name
        try:
            if self.stream.consumer_arn is not None:
                find_consumer(client, self.stream.consumer_arn)
            find_stream(client, self.stream.called, name)
            listed = {found.get("ShardId") for found in self.shards(client)}
        except (Refused, SourceUnavailable) as gone:
            return gone
        if shard in listed:
            return SourceUnavailable(f"{name}: {shard} is listed, but not found")
        return PartitionGone(f"{name}: {shard} is not there any more")


def find_stream(client: Any, called: dict[str, str], name: str) -> dict[str, Any]:
    """The stream's summary, and the service's `time` in Unix seconds, or None.

    Raises:
        Refused: there is no such stream, or it is being deleted.
        SourceUnavailable: no answer, or it is being created.
    """
    try:
        with kinesis_errors(name):
            found = client.describe_stream_summary(**called)
            summary: dict[str, Any] = {**found["StreamDescriptionSummary"], "time": service_time(found)}
            _check_status(summary["StreamStatus"], f"stream {name!r}")
            return summary
    except (NotFound, PlaceRefused) as error:
        raise Refused(f"no stream {name!r}") from error


def identity_of(client: Any, stream: Stream) -> str | None:
    """When the stream was made, which tells it from others of its name. Raises as `find_stream`."""
    created = find_stream(client, stream.called, stream.name).get("StreamCreationTimestamp")
    return created.astimezone(UTC).isoformat() if isinstance(created, datetime) else None


def find_consumer(client: Any, arn: str) -> dict[str, Any]:
    """The description of an enhanced fan-out consumer. Raises as `find_stream`."""
    try:
        with kinesis_errors(arn):
            found = client.describe_stream_consumer(ConsumerARN=arn)
            description: dict[str, Any] = found["ConsumerDescription"]
            _check_status(description["ConsumerStatus"], f"consumer {arn!r}")
            return description
    except (NotFound, PlaceRefused) as error:
        raise Refused(f"no consumer {arn!r}") from error


def _check_status(status: str, what: str) -> None:
    if status == "CREATING":
        raise SourceUnavailable(f"{what} is being created")
    if status == "DELETING":
        raise Refused(f"{what} is being deleted")
