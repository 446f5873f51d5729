"""The Telemetry API of one environment, and the Logs API before it: who subscribes to what.

Sources: AWS, "Lambda Telemetry API reference", "Lambda Logs API".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

import msgspec

from millstream.runtime.api.extensions import IDENTIFIER
from millstream.runtime.api.http import Reply, Request, refuse
from millstream.runtime.api.roster import Extension, Refusal
from millstream.runtime.delivery import Buffering, Destination
from millstream.runtime.link import UNREADABLE
from millstream.runtime.platform import PlatformLog
from millstream.runtime.telemetry import Telemetry, Wanted

VERSION, LOGS_VERSION = "2022-07-01", "2020-08-15"
BODY_BYTES = 16 * 1024
TEXT_ALONE = ("2022-07-01",)
"""Schema versions whose lines are strings, whatever the log format."""

URI = re.compile(r"http://(sandbox(?:\.localdomain)?|localhost|127\.0\.0\.1)(?::(\d{1,5}))?(/[!-~]*)?")
"""Nothing but the environment's own loopback address can be meant."""

HTTP_PORT = 80
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Type: TypeAlias = Literal["platform", "function", "extension"]
Types = Annotated[list[Type], msgspec.Meta(min_length=1, max_length=3)]
WHY_CHARACTERS = 200


class _Destination(msgspec.Struct):
    protocol: Literal["HTTP", "TCP"]
    uri: str = msgspec.field(name="URI", default="")
    port: Port | None = None
    method: Literal["POST", "PUT"] = "POST"


class _Buffering(msgspec.Struct, rename="camel"):
    """Source: AWS, "Lambda Telemetry API reference", buffering."""

    max_items: Annotated[int, msgspec.Meta(ge=1000, le=10_000)] = 10_000
    max_bytes: Annotated[int, msgspec.Meta(ge=262_144, le=1_048_576)] = 262_144
    timeout_ms: Annotated[int, msgspec.Meta(ge=25, le=30_000)] = 1000


class _Subscription(msgspec.Struct, rename="camel"):
    destination: _Destination
    types: Types
    schema_version: Literal["2022-07-01", "2022-12-13", "2025-01-29"] = "2022-07-01"
    buffering: _Buffering = msgspec.field(default_factory=_Buffering)


class _LogsSubscription(msgspec.Struct, rename="camel"):
    destination: _Destination
    types: Types
    schema_version: Literal["2020-08-15", "2021-03-18"] = "2020-08-15"
    buffering: _Buffering = msgspec.field(default_factory=_Buffering)


class TelemetryApi:
    """Implements Service, under both versions. `reserved_port` is the API's own."""

    def __init__(
        self,
        telemetry: Telemetry,
        platform: PlatformLog,
        find: Callable[[str], Extension | Refusal],
        reserved_port: int,
    ) -> None:
        self._telemetry = telemetry
        self._platform = platform
        self._find = find
        self._reserved_port = reserved_port

    def body_limit(self, request: Request) -> int:
        return BODY_BYTES

    def handle(self, request: Request, reply: Reply) -> None:
        match (request.method, *request.path.split("/")[1:]):
            case ("PUT", "2022-07-01", "telemetry"):
                answer = self._subscribe(request, logs_api=False)
            case ("PUT", "2020-08-15", "logs"):
                answer = self._subscribe(request, logs_api=True)
            case _:
                answer = Refusal(404, "NotFound", f"Nothing is at {request.method} {request.path[:100]}")
        if answer is None:
            reply.send(200, b'"OK"')
        else:
            refuse(reply, answer.status, answer.kind, answer.message)

    def _subscribe(self, request: Request, *, logs_api: bool) -> Refusal | None:
        extension = self._find(request.header(IDENTIFIER))
        if isinstance(extension, Refusal):
            return extension
        if not self._telemetry.open:
            kind = "Logs.SubscriptionClosed" if logs_api else "Telemetry.SubscriptionClosed"
            return Refusal(403, kind, "Subscriptions are taken during the init phase alone")
        wanted = parse(request.body if request.body_bytes <= BODY_BYTES else b"", logs_api=logs_api)
        if isinstance(wanted, Refusal):
            return wanted
        if wanted.destination.port == self._reserved_port:
            return _invalid(f"port {self._reserved_port} is the API's own")
        self._telemetry.subscribe(extension, wanted)
        self._platform.subscription(extension.name, "Subscribed", wanted.types)
        return None


def parse(body: bytes, *, logs_api: bool) -> Wanted | Refusal:
    """What a subscription says, or what is wrong with it."""
    found: _Subscription | _LogsSubscription
    try:
        if logs_api:
            found = msgspec.json.decode(body, type=_LogsSubscription)
        else:
            found = msgspec.json.decode(body, type=_Subscription)
    except UNREADABLE as error:
        known = isinstance(error, msgspec.ValidationError)
        return _invalid(str(error)[:WHY_CHARACTERS] if known else "wanted a JSON object")
    destination = _destination(found.destination)
    if isinstance(destination, Refusal):
        return destination
    wanted = found.buffering
    buffering = Buffering(wanted.max_items, wanted.max_bytes, wanted.timeout_ms / 1000)
    objects = not logs_api and found.schema_version not in TEXT_ALONE
    return Wanted(destination, buffering, tuple(dict.fromkeys(found.types)), objects, logs_api)


def _destination(found: _Destination) -> Destination | Refusal:
    if found.protocol == "TCP":
        if found.port is None:
            return _invalid("destination.port: wanted for protocol TCP")
        return Destination(found.port)
    matched = URI.fullmatch(found.uri)
    port = int(matched[2] or HTTP_PORT) if matched is not None else 0
    if matched is None or not 0 < port < 65536:
        return _invalid("destination.URI: wanted http://sandbox.localdomain:PORT/PATH")
    return Destination(port, matched[3] or "/", found.method, matched[1])


def _invalid(why: str) -> Refusal:
    return Refusal(400, "ValidationError", why)
