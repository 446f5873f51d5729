"""A client of DynamoDB Streams for one mapping: its threads, its errors, and how a stream is found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from millstream.aws.arn import Arn, parse_arn
from millstream.aws.clients import client_config, new_session
from millstream.aws.source_errors import source_errors
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import InvalidConfiguration, PartitionGone, Problem, SourceUnavailable
from millstream.contract.ports import Host

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
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code in _MEANT:
                raise _MEANT[code](f"{stream}: {code}") from error
            raise


class DynamoDbCalls:
    """The calls of one mapping. Owns the client, which is closed once nobody uses it any more."""

    def __init__(self, client: Any, arn: Arn) -> None:
        self.arn = str(arn)
        self.name = arn.resource.split("/")[1]  # the table's
        self._client = client
        self._threads = BlockingClient(f"dynamodb-{self.name}", THREADS)
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    async def call(self, work: Callable[[Any], T]) -> T:
        """What `work` makes of the client, in a thread.

        Raises:
            SourceUnavailable: no answer, or closed; its subclasses where it matters why.
            InvalidConfiguration: the stream refuses us.
        """
        if self._closed:
            raise SourceUnavailable(f"{self.name}: closed")
        return await self._threads.call(self._work, work)

    def _work(self, work: Callable[[Any], T]) -> T:
        with self._lock:
            if self._closed:
                raise SourceUnavailable(f"{self.name}: closed")
            self._users += 1
        try:
            with dynamodb_errors(self.name):
                return work(self._client)
        finally:
            with self._lock:
                self._users -= 1
            self._close_if_unused()

    def missing(self, client: Any, shard: str) -> InvalidConfiguration | PartitionGone | SourceUnavailable:
        """Why something was not found, within `work`."""
        try:
            shards = describe_stream(client, self.arn)["Shards"]
        except InvalidConfiguration as gone:
            return gone
        if any(found["ShardId"] == shard for found in shards):
            return SourceUnavailable(f"{self.name}: {shard} is listed, but not found")
        return PartitionGone(f"{self.name}: {shard} is not there any more")

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


def open_stream(declared: str, host: Host) -> DynamoDbCalls:
    """Find the stream of an ARN, or the latest one of a table's name or ARN. Blocks.

    Raises:
        InvalidConfiguration: there is no such stream or table, or the table has no stream.
        SourceUnavailable: no answer.
    """
    arn = parse_arn(declared)
    if arn is None or "/stream/" not in arn.resource:
        arn = _latest_stream(declared, arn, host)
    client = _new_client("dynamodbstreams", host, arn.region)
    try:
        describe_stream(client, str(arn), limit=1)
    except (InvalidConfiguration, SourceUnavailable):
        client.close()
        raise
    return DynamoDbCalls(client, arn)


def describe_stream(client: Any, arn: str, limit: int | None = None) -> dict[str, Any]:
    """The stream's description with all of its shards (the first `limit`, if that is given) as `Shards`,
    and the `date` that the service gave with its first page.

    Raises:
        InvalidConfiguration: there is no such stream.
        SourceUnavailable: no answer.
    """
    request: dict[str, Any] = {"StreamArn": arn} if limit is None else {"StreamArn": arn, "Limit": limit}
    description: dict[str, Any] = {}
    shards: dict[str, dict[str, Any]] = {}
    while True:
        try:
            with dynamodb_errors(arn):
                answer = client.describe_stream(**request)
        except NotFound as error:
            raise _no(f"a stream that is there ({arn})", "none") from error
        page = answer.get("StreamDescription")
        if not isinstance(page, dict):
            raise SourceUnavailable(f"{arn}: an answer without a description")
        description = description or {**page, "date": _date(answer)}
        shards |= {shard["ShardId"]: shard for shard in page.get("Shards", ())}
        last = page.get("LastEvaluatedShardId")
        if last is None or limit is not None:
            return {**description, "Shards": list(shards.values())}
        request["ExclusiveStartShardId"] = last


def _date(answer: dict[str, Any]) -> str | None:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return date if isinstance(date, str) else None


def _latest_stream(table: str, arn: Arn | None, host: Host) -> Arn:
    with closing(_new_client("dynamodb", host, arn.region if arn is not None else None)) as client:
        try:
            with dynamodb_errors(table):
                found = client.describe_table(TableName=table).get("Table", {})
        except NotFound as error:
            raise _no(f"a table that is there ({table})", "none") from error
    latest = parse_arn(found.get("LatestStreamArn") or "")
    if latest is None:
        raise _no(f"a table whose stream is enabled ({table})", "one without a stream")
    return latest


def _new_client(service: str, host: Host, region: str | None) -> Any:
    make: Any = new_session().client  # by name, which the stubs cannot follow
    config = client_config(THREADS).merge(Config(read_timeout=READ_TIMEOUT_S))
    with dynamodb_errors("DynamoDB"):
        try:
            return make(
                service, endpoint_url=host.endpoint_url, region_name=region or host.region, config=config
            )
        except ValueError as error:  # of botocore, for an endpoint that is no URL
            raise InvalidConfiguration([Problem("", "endpoint_url", "a URL", str(error))]) from error


def _no(wanted: str, found: str) -> InvalidConfiguration:
    return InvalidConfiguration([Problem("", "stream", wanted, found)])
