"""How the daemon talks to one runtime in an environment: a port of the runtime's own."""

from __future__ import annotations

import random
import time
from typing import Any, Protocol, TypeAlias

import msgspec

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed, Success
from millstream.contract.outside_json import NotJson, read, readable
from millstream.contract.plain_text import shown
from millstream.runtime.processes import Process

Answer: TypeAlias = Success | FunctionFailed
"""What a runtime can make of an invocation."""


class Broken(Exception):
    """The runtime is gone, or said what it must not. `status` is its exit status, where that is known."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__()
        self.status = status


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """One event for a runtime."""

    request_id: str
    event: bytes
    deadline_ms: int  # Unix time
    trace: str  # X-Ray's header


def trace_header() -> str:
    """X-Ray's trace header, of a trace that nobody records."""
    drawn = f"{random.getrandbits(160):040x}"  # no secret
    return f"Root=1-{int(time.time()):08x}-{drawn[:24]};Parent={drawn[24:]};Sampled=0"


class Link(Protocol):
    """One runtime, from its start to its end; one invocation at a time."""

    @property
    def quiet(self) -> bool:
        """True if the runtime is there, and has said nothing that is not yet taken."""

    @property
    def process(self) -> Process | None:
        """Of the runtime, once it is started."""

    async def start(self) -> None:
        """Start it. Raises NotStarted; Broken if it is closed meanwhile."""

    async def ready(self) -> bytes | None:
        """Wait until the handler is loaded; the error document that says why it is not. Raises Broken."""

    @property
    def snapshot(self) -> bool:
        """True while it is loaded, and must be restored before it can run anything."""

    async def restore(self) -> bytes | None:
        """Make it wait for work; the error document that says why it does not.

        Raises:
            Broken: its runtime ended.
            NotStarted: its snapshot is lost, without fault of its own.
        """

    @property
    def waiting(self) -> bool:
        """True while the runtime waits for work."""

    async def settled(self) -> None:
        """Wait until it waits for work: after its answer, it may still be busy or end. Raises Broken."""

    async def run(self, invocation: Invocation) -> Answer:
        """Run the handler. Raises Broken; after that, or if it is cancelled, the link must be closed."""

    def peak_kb(self) -> int:
        """Most memory that it had at once. 0: not known."""

    @property
    def response_s(self) -> float:
        """How long its last response took to come, from the first bytes on."""

    def memory_kb(self) -> int:
        """What it holds now, about. 0: not known."""

    def close(self) -> None:
        """Give back what belongs to it; its processes are ended by others."""


class Links(Protocol):
    """Makes the links of one environment, one after another."""

    @property
    def kept(self) -> bool:
        """True while a snapshot is there that the next runtime is restored from."""

    def link(self) -> Link:
        """One for a new runtime; the one before is closed."""


class _Error(msgspec.Struct, rename="camel"):
    error_type: str = "Unhandled"
    error_message: str = ""


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at texts of others; the last one where values are nested too deeply."""

ODD_ERROR_BYTES = 256 * 1024
"""Largest error document that is read although msgspec refuses it: reading it stops all else meanwhile."""


def failure(document: bytes, request_id: str) -> FunctionFailed:
    """Read an error document of a runtime; its type becomes a short text without control characters.

    Raises:
        Broken: it is no JSON object with texts in it.
    """
    try:
        check_utf8(document)
        error = msgspec.json.decode(document, type=_Error)
    except UNREADABLE as wrong:
        error = _odd_error(document, wrong)
    return FunctionFailed(shown(error.error_type), error.error_message, document, request_id)


def check_utf8(document: bytes) -> None:
    """Look at all of it: msgspec leaves out what it builds nothing of. Raises UnicodeDecodeError."""
    if not document.isascii():
        document.decode()


def _odd_error(document: bytes, wrong: Exception) -> _Error:
    """An error document that is JSON of a kind that msgspec refuses, if it is no larger than errors are."""
    try:
        if len(document) > ODD_ERROR_BYTES:
            raise NotJson
        return msgspec.convert(_whole(read(document)), _Error)
    except (NotJson, msgspec.ValidationError):
        raise Broken from wrong


def _whole(value: Any) -> Any:
    """The texts of an object, without halves of characters, which no log can hold."""
    if not isinstance(value, dict):
        return value
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in value.items()}


async def success(payload: bytes, request_id: str) -> Answer:
    """A result, untouched. What is no JSON, or is nested too deeply to be read, becomes a string of its text.

    JSON is what RFC 8259 says: with numbers of any size, and halves of surrogate pairs, which Node.js writes.
    """
    try:
        await readable(payload)
    except NotJson:
        payload = msgspec.json.encode(payload.decode("utf-8", "replace"))
        if len(payload) > MAX_RESPONSE_BYTES:
            return too_large(request_id)
    return Success(payload, request_id)


def too_large(request_id: str) -> FunctionFailed:
    """A response above the limit. Source: AWS, "Lambda quotas"."""
    kind = "Function.ResponseSizeTooLarge"
    why = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
    document = msgspec.json.encode({"errorMessage": why, "errorType": kind})
    return FunctionFailed(kind, why, document, request_id)
