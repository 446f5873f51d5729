"""The Runtime API of one runtime, from its start to its end: what may be asked when.

    starting ── next ──► waiting ── an invocation ──► running ── response or error ──► answered
                            ▲                                                             │
       │                    ▲  ▲                                                          │
       │                    │  └───────────────────────── next ───────────────────────────┘
       └── restore next ──► snapshot ── restored ──► restoring ── next ──► waiting

Source: AWS, "Using the Lambda runtime API for custom runtimes".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from enum import Enum
from typing import Any

import msgspec

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed, Success
from millstream.contract.plain_text import shown
from millstream.runtime.api.http import Reply, Request, refuse
from millstream.runtime.link import (
    UNREADABLE,
    Answer,
    Broken,
    Invocation,
    check_utf8,
    success,
    too_large,
)

VERSION = "2018-06-01"
ERROR_BYTES = 256 * 1024
"""Longest error document that is kept."""

ERROR_TYPE = b"lambda-runtime-function-error-type"
ERROR_BODY = b"lambda-runtime-function-error-body"
BEFORE_SNAPSHOT, AFTER_RESTORE = "Runtime.BeforeSnapshotError", "Runtime.AfterRestoreError"
ACCEPTED = b'{"status":"OK"}\n'


class State(Enum):
    """Of a runtime, by what it asked for last."""

    STARTING = "starting"
    SNAPSHOT = "snapshot"
    RESTORING = "restoring"
    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"


class _Error(msgspec.Struct, rename="camel"):
    error_type: str = ""
    error_message: str = ""


class RuntimeApi:
    """Implements Service. Futures are set at most once; what comes at the wrong time is refused."""

    def __init__(self, function_arn: str, *, snapshots: bool = False) -> None:
        self._arn = function_arn
        self._snapshots = snapshots
        self._restore: Reply | None = None
        self.state = State.STARTING
        self._next: Reply | None = None
        self._invocation: Invocation | None = None
        loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[bytes | None] = loop.create_future()
        self._asked: asyncio.Future[None] | None = None
        self._outcome: asyncio.Future[Answer] | None = None
        self._ended: Broken | None = None
        self.response_s = 0.0  # from the head of the last response to its end

    @property
    def waiting(self) -> bool:
        """True while the runtime waits for work."""
        return self._ended is None and self._next is not None and not self._next.gone

    @property
    def snapshot(self) -> bool:
        """True while the runtime waits to be restored."""
        return self.state is State.SNAPSHOT and self._ended is None

    # the daemon's side

    async def loaded(self) -> bytes | None:
        """Wait until the runtime asks for work, or says why it cannot. Raises Broken."""
        return await asyncio.shield(self._loaded)

    async def restore(self) -> bytes | None:
        """Tell it that it is restored; wait until it asks for work, or says why it cannot. Raises Broken."""
        reply, self._restore = self._restore, None
        if self._ended is not None or reply is None:
            raise Broken
        self.state = State.RESTORING
        self._loaded = asyncio.get_running_loop().create_future()
        reply.send(200, b"")
        return await asyncio.shield(self._loaded)

    async def settled(self) -> None:
        """Wait until the runtime asks for work again. Raises Broken."""
        if self._ended is not None:
            raise self._ended
        if not self.waiting:
            self._asked = asyncio.get_running_loop().create_future()
            await self._asked

    async def run(self, invocation: Invocation) -> Answer:
        """Give it an invocation, for which it waits; what came of it. Raises Broken."""
        if self._ended is not None:
            raise self._ended
        self._outcome = asyncio.get_running_loop().create_future()
        self._invocation = invocation
        reply, self._next = self._next, None
        if reply is None:
            raise Broken
        self.state = State.RUNNING
        self._deliver(invocation, reply)
        answer = await self._outcome
        return await success(answer.payload, answer.request_id) if isinstance(answer, Success) else answer

    def end(self, status: int | None) -> None:
        """The runtime is gone."""
        self._ended = Broken(status)
        for future in (self._loaded, self._asked, self._outcome):
            if future is not None and not future.done():
                future.set_exception(Broken(status))
                future.exception()  # nobody need be waiting

    # the runtime's side

    def body_limit(self, request: Request) -> int:
        *_, identity, what = ("", *request.path.split("/"))
        if what == "response" and self._current(identity):
            return MAX_RESPONSE_BYTES
        return ERROR_BYTES if what == "error" else 0

    def handle(self, request: Request, reply: Reply) -> None:
        match (request.method, *request.path.split("/")[3:]):
            case ("GET", "invocation", "next"):
                self._take_next(reply)
            case ("POST", "invocation", identity, "response"):
                self._take_response(identity, request, reply)
            case ("POST", "invocation", identity, "error"):
                self._take_error(identity, request, reply)
            case ("POST", "init", "error"):
                self._take_init_error(request, reply)
            case ("GET", "restore", "next"):
                self._take_restore_next(reply)
            case ("POST", "restore", "error"):
                self._take_restore_error(request, reply)
            case _:
                refuse(reply, 404, "NotFound", f"Nothing is at {request.method} {request.path[:100]}")

    def _take_next(self, reply: Reply) -> None:
        asked = self._next is not None and not self._next.gone
        if asked or self.state in (State.RUNNING, State.SNAPSHOT):
            refuse(reply, 403, "InvalidStateTransition", f"Transition from {self.state.value} to next")
            return
        self.state = State.WAITING
        self._next = reply
        if not self._loaded.done():
            self._loaded.set_result(None)
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    def _deliver(self, invocation: Invocation, reply: Reply) -> None:
        reply.send(200, invocation.event, {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": self._arn,
            "Lambda-Runtime-Trace-Id": invocation.trace,
        })  # fmt: skip

    def _take_response(self, identity: str, request: Request, reply: Reply) -> None:
        if not self._current(identity):
            self._refuse(identity, reply)
            return
        self.response_s = time.monotonic() - request.began_at
        if request.body_bytes > MAX_RESPONSE_BYTES:
            failed = too_large(identity)
            refuse(reply, 413, "RequestEntityTooLarge", failed.message)
            self._answer(failed)
        else:
            reply.send(202, ACCEPTED)
            if request.header(ERROR_TYPE):  # announced by a trailer, behind a part of the response
                self._answer(_failed(request, _trailer_body(request), identity))
            else:
                self._answer(Success(request.body, identity))  # whether it is JSON is looked at in `run`

    def _take_error(self, identity: str, request: Request, reply: Reply) -> None:
        if not self._current(identity):
            self._refuse(identity, reply)
            return
        reply.send(202, ACCEPTED)
        self._answer(_failed(request, request.body, identity))

    def _take_init_error(self, request: Request, reply: Reply) -> None:
        if self.state is not State.STARTING or self._loaded.done():
            refuse(reply, 403, "InvalidStateTransition", f"Transition from {self.state.value} to init error")
            return
        reply.send(202, ACCEPTED)
        of_a_hook = request.header(ERROR_TYPE) == BEFORE_SNAPSHOT
        document = (
            _of_a_hook(request, BEFORE_SNAPSHOT) if of_a_hook else _failed(request, request.body, "").payload
        )
        self._loaded.set_result(document)

    def _take_restore_next(self, reply: Reply) -> None:
        if not self._snapshots or self.state is not State.STARTING or self._loaded.done():
            refuse(
                reply, 403, "InvalidStateTransition", f"Transition from {self.state.value} to restore next"
            )
            return
        self.state = State.SNAPSHOT
        self._restore = reply
        self._loaded.set_result(None)

    def _take_restore_error(self, request: Request, reply: Reply) -> None:
        if self.state is not State.RESTORING or self._loaded.done():
            refuse(
                reply, 403, "InvalidStateTransition", f"Transition from {self.state.value} to restore error"
            )
            return
        reply.send(202, ACCEPTED)
        self._loaded.set_result(_of_a_hook(request, AFTER_RESTORE))

    def _answer(self, outcome: Answer) -> None:
        self.state = State.ANSWERED
        self._invocation = None
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    def _current(self, identity: str) -> bool:
        running = self.state is State.RUNNING and self._invocation is not None
        return running and self._invocation is not None and identity == self._invocation.request_id

    def _refuse(self, identity: str, reply: Reply) -> None:
        if self.state is State.RUNNING:
            refuse(reply, 400, "InvalidRequestID", f"Invalid request ID: {identity[:100]}")
        else:
            refuse(reply, 403, "InvalidStateTransition", f"Transition from {self.state.value} to response")


def _failed(request: Request, document: bytes, identity: str) -> FunctionFailed:
    """What a runtime posted as an error; one that is no JSON object is put into one."""
    kind = shown(request.header(ERROR_TYPE)) or "Unhandled"
    try:
        check_utf8(document)
        error = msgspec.json.decode(document, type=_Error)
    except UNREADABLE:
        text = document.decode("utf-8", "replace")
        made = msgspec.json.encode({"errorType": kind, "errorMessage": text})
        return FunctionFailed(kind, text, made, identity)
    return FunctionFailed(shown(error.error_type) or kind, error.error_message, document, identity)


def _of_a_hook(request: Request, kind: str) -> bytes:
    """The error document of a hook, which is of that kind whatever it raised."""
    failed = _failed(request, request.body, "")
    document = msgspec.json.decode(failed.payload, type=dict[str, Any])
    message = f"{failed.error_type}: {failed.message}"
    return msgspec.json.encode({**document, "errorType": kind, "errorMessage": message})


def _trailer_body(request: Request) -> bytes:
    try:
        return base64.b64decode(request.header(ERROR_BODY), validate=True)
    except binascii.Error:
        return b""
