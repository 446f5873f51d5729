"""A client of DynamoDB Streams for one mapping: its threads, its errors, and what it asks of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from millstream.aws.arn import parse_arn
from millstream.aws.clients import client_config, new_client, service_time
from millstream.aws.record_pages import PageUnreadable, UnreadablePage
from millstream.aws.shared_client import SharedClient
from millstream.aws.source_errors import code_of, source_errors
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import MillstreamError, PartitionGone, Refused, SourceUnavailable
from millstream.contract.ports import Host
from millstream.triggers.dynamodb_wire import parsers

THREADS = 16
"""Calls of one mapping at once; one call brings up to 1 MB, and takes well below a second."""

READ_TIMEOUT_S = 10.0
"""No call here is a long poll."""

T = TypeVar("T")


class IteratorRefused(SourceUnavailable):
    """A shard iterator is older than 15 minutes, or a request is wrong otherwise."""


class Trimmed(SourceUnavailable):
    """A place is behind the oldest record that the stream still has."""


class NotFound(SourceUnavailable):
    """The stream or the shard is not there: the service's error does not say which."""


_MEANT = {
    "ExpiredIteratorException": IteratorRefused,
    "ValidationException": IteratorRefused,
    "TrimmedDataAccessException": Trimmed,
    "ResourceNotFoundException": NotFound,
}


@contextmanager
def dynamodb_errors(stream: str) -> Iterator[None]:
    """Turns botocore's faults into ours."""
    with source_errors("stream", stream, frozenset()):
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code in _MEANT:
                raise _MEANT[code](f"{stream}: {code}") from error
            raise
        except UnreadablePage as error:
            raise PageUnreadable(f"{stream}: {error}") from error


class DynamoDbCalls:
    """The calls of one mapping.

    `tables` is a client of DynamoDB itself, for a mapping that is declared by a table.
    """

    def __init__(self, client: Any, declared: str, tables: Any = None) -> None:
        arn = parse_arn(declared)
        self.declared = declared
        self.name = declared if arn is None else arn.resource.split("/")[1]  # the table's
        self.tables = tables
        threads = BlockingClient(f"dynamodb-{self.name}", THREADS)
        self._streams = SharedClient(client, self.name, threads, *([] if tables is None else [tables]))

    async def call(self, work: Callable[[Any], T]) -> T:
        """Return what `work` makes of the client, in a thread.

        Raises:
            SourceUnavailable: no answer, or closed; its subclasses where it matters why.
            Refused: the stream is gone or refuses us.
        """
        return await self._streams.call(partial(self._mapped, work))

    def _mapped(self, work: Callable[[Any], T], client: Any) -> T:
        with dynamodb_errors(self.name):
            return work(client)

    def missing(self, client: Any, stream_arn: str, shard: str) -> MillstreamError:
        """Why something was not found, within `work`."""
        try:
            shards = describe_stream(client, stream_arn)["Shards"]
        except (Refused, SourceUnavailable) as gone:
            return gone
        if any(found["ShardId"] == shard for found in shards):
            return SourceUnavailable(f"{self.name}: {shard} is listed, but not found")
        return PartitionGone(f"{self.name}: {shard} is not there any more")

    def close(self) -> None:
        """Let calls end that are in flight, and take no more."""
        self._streams.close()


def open_calls(declared: str, host: Host) -> DynamoDbCalls:
    """The clients for a stream's ARN, or for a table's name or ARN. Blocks, but asks nothing yet.

    Raises:
        Refused: this host's AWS settings are wrong.
        InvalidConfiguration: the endpoint is no URL.
    """
    arn = parse_arn(declared)
    region = host.region if arn is None else arn.region or host.region
    config = client_config(THREADS).merge(Config(read_timeout=READ_TIMEOUT_S))
    with dynamodb_errors(declared), ExitStack() as undo:
        client = new_client("dynamodbstreams", host.endpoint_url, region, config, parsers())
        undo.callback(client.close)
        tables = None
        if arn is None or "/stream/" not in arn.resource:
            tables = new_client("dynamodb", host.endpoint_url, region, config)
            undo.callback(tables.close)
        calls = DynamoDbCalls(client, declared, tables)
        undo.pop_all()
    return calls


def describe_stream(client: Any, arn: str, limit: int | None = None) -> dict[str, Any]:
    """The stream's description with all of its shards (the first `limit`, if that is given) as `Shards`,
    and the `time` that the service gave with its first page.

    Raises:
        Refused: there is no such stream.
        SourceUnavailable: no answer.
    """
    request: dict[str, Any] = {"StreamArn": arn} if limit is None else {"StreamArn": arn, "Limit": limit}
    description: dict[str, Any] = {}
    shards: dict[str, dict[str, Any]] = {}
    while True:
        try:
            with dynamodb_errors(arn):
                answer = client.describe_stream(**request)
                page = answer.get("StreamDescription")
                if not isinstance(page, dict):
                    raise SourceUnavailable(f"{arn}: an answer without a description")
                description = description or {**page, "time": service_time(answer)}
                shards |= {shard["ShardId"]: shard for shard in page.get("Shards", ())}
        except NotFound as error:
            raise Refused(f"no stream {arn!r}") from error
        last = page.get("LastEvaluatedShardId")
        if last is None or limit is not None:
            return {**description, "Shards": list(shards.values())}
        request["ExclusiveStartShardId"] = last
