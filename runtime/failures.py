"""What a caller, and the log, are told of an invocation that has no result. Pure.

The texts are AWS's, as recorded; see docs/compatibility.md, "Error payloads".
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from millstream.contract.functions import FunctionFailed, Outcome
from millstream.runtime.link import Broken, failure
from millstream.runtime.platform import Ending

Told: TypeAlias = tuple[FunctionFailed, Ending]

EXITED = "Runtime exited without providing a reason"
KILLED = "Runtime exited with error: signal: killed"
EXIT_STATUS = "Runtime exited with error: exit status {}"
NOT_STARTED = (126, 127)
"""Exit statuses of a program that is not there, or cannot be executed. AWS names no others."""

EXIT_ERROR = Ending("error", "Runtime.ExitError")


class NotLoaded(Exception):
    """A new runtime could not load the handler."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.document = document


def timed_out(after_s: float, request_id: str) -> Told:
    """The time was over."""
    why = f"Task timed out after {after_s:.2f} seconds"
    return _failed("Sandbox.Timedout", request_id, why), Ending("timeout")


def not_loaded(document: bytes, request_id: str) -> Told:
    """The handler could not be loaded, as the runtime's document says. Raises Broken, as `failure` does."""
    failed = failure(document, request_id)
    return failed, Ending("error", " ".join(failed.error_type.split()))


def exited(broken: Exception, request_id: str, *, out_of_memory: bool) -> Told:
    """The runtime is gone, or was never there."""
    why = EXITED
    if out_of_memory:
        why = KILLED
    elif isinstance(broken, Broken) and broken.status in NOT_STARTED:
        why = EXIT_STATUS.format(broken.status)
    return _failed("Runtime.ExitError", request_id, why), EXIT_ERROR


def extension_failed(kind: str, why: str, request_id: str) -> Told:
    """An extension ended, or said that it cannot go on."""
    return _failed(kind, request_id, why), Ending("failure", kind)


def was_killed(outcome: Outcome) -> bool:
    """True if the runtime was ended for its memory."""
    return isinstance(outcome, FunctionFailed) and outcome.message.endswith(KILLED)


def _failed(kind: str, request_id: str, why: str) -> FunctionFailed:
    message = f"RequestId: {request_id} Error: {why}"
    payload = msgspec.json.encode({"errorType": kind, "errorMessage": message})
    return FunctionFailed(kind, message, payload, request_id)
