"""Requests and answers of the Runtime, Extensions and Telemetry APIs, and the port of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case. `body` is cut off where it is longer than allowed."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes = b""
    body_bytes: int = 0  # of which `body` may be the first part alone
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    began_at: float = 0.0  # monotonic: its head was here

    def header(self, name: bytes) -> str:
        """A header's value, or a trailer's; empty if there is none."""
        return (self.headers.get(name) or self.trailers.get(name) or b"").decode("latin-1")


class Reply(Protocol):
    """Where the answer to one request goes; it may be given later."""

    @property
    def gone(self) -> bool:
        """True if nobody waits for it any more."""

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer, with JSON."""


class Service(Protocol):
    """One of the APIs."""

    def body_limit(self, request: Request) -> int:
        """How many bytes of the body are kept; asked for once the head is here."""

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer, now or later. Must not raise."""


def refuse(reply: Reply, status: int, kind: str, message: str) -> None:
    """An error document."""
    reply.send(status, msgspec.json.encode({"errorMessage": message, "errorType": kind}))
