"""An S3 bucket as a destination: one object a record, its key by mapping, partition and time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget, CallRefused
from millstream.contract.errors import DocumentTooLarge
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.contract.times import iso_s
from millstream.destinations.targets import parse_target

TOO_LARGE = frozenset({"413", "EntityTooLarge", "MaxMessageLengthExceeded", "RequestEntityTooLarge"})
"""Source: AWS, S3's error responses; other servers of its protocol have lower limits."""

_ARN = re.compile(r"arn:[a-z-]+:s3:::([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])")
_UNSAFE = re.compile(r"[^A-Za-z0-9!_.*'()-]+")  # all but the characters that S3 calls safe in keys


def _bucket(target: str) -> str:
    if not _ARN.fullmatch(target):
        raise ValueError("a bucket's ARN (arn:aws:s3:::failed)")
    return target


class S3DestinationOptions(Options):
    """`target` is a bucket's ARN."""

    target: Annotated[str, AfterValidator(_bucket)]


class S3Destination:
    """Implements Destination."""

    limit_bytes = None
    payload = Payload.EVENT

    def __init__(self, options: S3DestinationOptions) -> None:
        self.name = options.target
        self._bucket = self.name.rpartition(":")[2]
        self._aws = AwsTarget("s3", self.name, "")

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("s3", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(S3DestinationOptions, options))

    async def open(self, host: Host) -> None:
        await self._aws.open(host, lambda client: client.head_bucket(Bucket=self._bucket))

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        key = object_key(record, str(uuid.uuid4()))
        try:
            await self._aws.call(
                lambda client: client.put_object(
                    Bucket=self._bucket, Key=key, Body=record.body, ContentType="application/json"
                )
            )
        except CallRefused as refused:
            if refused.code not in TOO_LARGE:
                raise
            raise DocumentTooLarge(f"{self.name}: {len(record.body)} bytes are too many") from refused
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()


def object_key(record: InvocationRecord, unique: str) -> str:
    """`aws/lambda/MAPPING/PARTITION/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-UNIQUE` for failures.

    Successes have `aws/lambda/async/FUNCTION/…`, as asynchronous invocations have it.
    Source: AWS, "Retain discarded batch records in S3".
    """
    at = iso_s(record.written_at)
    owner = f"{record.mapping_id}/{_UNSAFE.sub('-', record.partition).strip('.') or '-'}"
    if record.succeeded:
        owner = f"async/{record.function_arn.split(':')[6]}"
    return f"aws/lambda/{owner}/{at[:10].replace('-', '/')}/{at[:19].replace(':', '.')}-{unique}"
