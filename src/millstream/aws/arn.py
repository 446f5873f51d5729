"""Amazon Resource Names, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Arn:
    """`arn:partition:service:region:account:resource`; region and account may be empty (S3)."""

    partition: str
    service: str
    region: str
    account: str
    resource: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.resource}"


def parse_arn(text: str) -> Arn | None:
    """The ARN in `text`. None: it is not one."""
    parts = text.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn" or not parts[1] or not parts[2] or not parts[5]:
        return None
    return Arn(*parts[1:])


def is_arn_of(service: str, text: str) -> bool:
    """True for an ARN of that service."""
    arn = parse_arn(text)
    return arn is not None and arn.service == service


def same_source(one: str, other: str) -> bool:
    """True if two declarations name the same queue, stream or table, by name, URL or ARN.

    A plain name is the ARN or the queue's URL whose resource has that name. A queue's URL is the ARN or the
    other URL of that name and account. Two ARNs are the same only if they are equal; the ARN of a Kinesis
    consumer is not its stream.
    """
    if one == other:
        return True
    first, second = _resource(one), _resource(other)
    if first is None or second is None or (parse_arn(one) is not None and parse_arn(other) is not None):
        return False
    pairs = zip((first.service, first.account), (second.service, second.account), strict=True)
    return first.name == second.name and all("" in pair or pair[0] == pair[1] for pair in pairs)


@dataclass(frozen=True, slots=True)
class _Resource:
    """What a declaration says of its queue, stream or table; empty where it says nothing."""

    name: str
    service: str = ""
    account: str = ""


def _resource(source: str) -> _Resource | None:
    """None: it is no queue, stream or table."""
    arn = parse_arn(source)
    if arn is None:
        return _of_url(source) if source.startswith(("http://", "https://")) else _Resource(source)
    name, _, rest = arn.resource.partition("/")
    if arn.service == "kinesis":
        name = rest if name == "stream" and "/" not in rest else ""
    elif arn.service == "dynamodb":
        name = rest.partition("/stream/")[0] if name == "table" else ""
    elif arn.service != "sqs":
        return None
    return _Resource(name, arn.service, arn.account) if name else None


def _of_url(url: str) -> _Resource | None:
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    head, _, name = path.rpartition("/")
    account = head.rpartition("/")[2]
    return _Resource(name, "sqs", account if account.isdecimal() else "") if name else None
