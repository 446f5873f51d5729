"""The Extensions API of one environment, over HTTP: what roster.py allows, and the events that wait.

Source: AWS, "Using the Lambda Extensions API to create extensions".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from millstream.runtime.api.http import Reply, Request, refuse
from millstream.runtime.api.roster import SHUTDOWN, Extension, Refusal, Roster, Stage

VERSION = "2020-01-01"
BODY_BYTES = 64 * 1024
"""Longest body that is kept: a registration, or an error document, which nobody reads."""

NAME, IDENTIFIER = b"lambda-extension-name", b"lambda-extension-identifier"
FEATURES = b"lambda-extension-accept-feature"
ACCEPTED = b'{"status":"OK"}\n'


@dataclass(frozen=True, slots=True)
class About:
    """What an extension is told of its function as it registers."""

    function_name: str
    function_version: str
    handler: str
    account_id: str


class ExtensionsApi:
    """Implements Service. `changed` is called after each call that was taken."""

    def __init__(self, about: About, roster: Roster, changed: Callable[[], None]) -> None:
        self._about = about
        self.roster = roster
        self._changed = changed
        self._waiting: dict[Extension, Reply] = {}  # asked for their next event
        self._events: dict[Extension, bytes] = {}  # for which nobody has asked yet

    @property
    def settled(self) -> bool:
        """True while every one of them that is there waits for an event."""
        return all(
            member.stage is Stage.READY and member in self._waiting and not self._waiting[member].gone
            for member in self.roster.members
        )

    def tell(self, member: Extension, event: bytes) -> None:
        """Give it an event, now or as soon as it asks. An earlier one for which it did not ask is lost."""
        self._events[member] = event
        self._deliver(member)

    # the extensions' side

    def body_limit(self, request: Request) -> int:
        return BODY_BYTES

    def handle(self, request: Request, reply: Reply) -> None:
        identifier = request.header(IDENTIFIER)
        match (request.method, *request.path.split("/")[2:]):
            case ("POST", "extension", "register"):
                answer = self.roster.register(request.header(NAME), _body(request))
                if isinstance(answer, Extension):
                    self._welcome(answer, request, reply)
            case ("GET", "extension", "event", "next"):
                answer = self._take_next(identifier, reply)
            case ("POST", "extension", "init" | "exit" as phase, "error"):
                answer = self.roster.fail(identifier, initial=phase == "init")
                if isinstance(answer, Extension):
                    reply.send(202, ACCEPTED)
            case _:
                answer = Refusal(404, "NotFound", f"Nothing is at {request.method} {request.path[:100]}")
        if isinstance(answer, Refusal):
            refuse(reply, answer.status, answer.kind, answer.message)
        else:
            self._changed()

    def _welcome(self, member: Extension, request: Request, reply: Reply) -> None:
        about = self._about
        told = {
            "functionName": about.function_name,
            "functionVersion": about.function_version,
            "handler": about.handler,
        }
        if "accountId" in (feature.strip() for feature in request.header(FEATURES).split(",")):
            told["accountId"] = about.account_id
        reply.send(200, msgspec.json.encode(told), {"Lambda-Extension-Identifier": member.identifier})

    def _take_next(self, identifier: str, reply: Reply) -> Extension | Refusal:
        found = self.roster.find(identifier)
        before = self._waiting.get(found) if isinstance(found, Extension) else None
        member = self.roster.ask(identifier, again=before is not None and before.gone)
        if isinstance(member, Extension):
            self._waiting[member] = reply
            self._deliver(member)
        return member

    def _deliver(self, member: Extension) -> None:
        reply = self._waiting.get(member)
        if reply is None or reply.gone or member not in self._events:
            return
        del self._waiting[member]
        self.roster.give(member)
        reply.send(200, self._events.pop(member), {"Lambda-Extension-Event-Identifier": str(uuid.uuid4())})


def invoke_event(request_id: str, deadline_ms: int, arn: str, trace: str) -> bytes:
    """Of one invocation."""
    return msgspec.json.encode({
        "eventType": "INVOKE",
        "deadlineMs": deadline_ms,
        "requestId": request_id,
        "invokedFunctionArn": arn,
        "tracing": {"type": "X-Amzn-Trace-Id", "value": trace},
    })  # fmt: skip


def shutdown_event(reason: str, deadline_ms: int) -> bytes:
    """`reason` is SPINDOWN, TIMEOUT or FAILURE."""
    return msgspec.json.encode({
        "eventType": SHUTDOWN,
        "shutdownReason": reason,
        "deadlineMs": deadline_ms,
    })  # fmt: skip


def _body(request: Request) -> bytes:
    """Empty, which is refused, where it is longer than what is kept."""
    return request.body if request.body_bytes <= BODY_BYTES else b""
