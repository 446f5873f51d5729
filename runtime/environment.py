"""One execution environment, seen from the daemon: frames to and from the bootstrap, and its log lines.

    created ── R ──► idle ── I ──► busy ── S, F ──► idle
       └── E, time up ──┴── time up, end of file, anything unexpected ──► killed

The frames are drawn in `bootstrap/bootstrap.py`. What they say is hostile: ids, sizes and JSON are
checked, and anything wrong kills the environment.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed, FunctionSpec, Outcome, Success
from millstream.contract.ports import LogSink
from millstream.runtime.frames import Broken, Frames
from millstream.runtime.output import Output
from millstream.runtime.variables import bootstrap_config

NUMBER = struct.Struct("!Q")
PREFIX_BYTES = 36 + NUMBER.size
FRAME_BYTES = MAX_RESPONSE_BYTES + 64 * 1024
"""Longest frame that is taken: a response and room for an error document about it."""

INIT_S = 10.0
"""Longest init phase. Source: AWS, "Understanding the Lambda execution environment lifecycle"."""

ISOLATE_S = 20.0
"""How long the isolation of a new environment may take; it takes milliseconds."""

NO_LIMITS: Mapping[str, int] = MappingProxyType({})

EXITED = "Runtime exited without providing a reason"
KILLED = "Runtime exited with error: signal: killed"


class _Error(msgspec.Struct, rename="camel"):
    error_type: str = "Unhandled"
    error_message: str = ""


class Processes(Protocol):
    """The processes of one environment, as its driver made them."""

    def kill(self) -> None:
        """End all of them; returns at once. Called once."""

    def out_of_memory(self) -> bool:
        """True if one of them was ended for the memory that they took. False if nobody knows."""

    def peak_kb(self) -> int:
        """Most memory that they had at once, while they are there. 0: not known."""

    async def gone(self) -> None:
        """Return when none is left, after `kill`."""


class FramedEnvironment:
    """Implements ExecutionEnvironment over a socket to the Python bootstrap."""

    def __init__(
        self,
        function: FunctionSpec,
        sock: socket.socket,
        output: Output,
        processes: Processes,
        log: LogSink,
        stream: str,
    ) -> None:
        self._function = function
        self._frames = Frames(sock, FRAME_BYTES)
        self._output = output
        self._processes = processes
        self._log = log
        self._stream = stream
        self._ready = False
        self._created_at = time.monotonic()
        self._init_s: float | None = None  # reported once
        self._killed = False

    @property
    def alive(self) -> bool:
        """False once it is killed, and if its processes end or say anything while they have no work."""
        return not self._killed and (not self._ready or self._frames.quiet)

    async def isolated(self, task_root: str, paths: list[str], limits: Mapping[str, int] = NO_LIMITS) -> None:
        """Wait until the isolation stands, and start the init phase.

        `limits` are resource limits by name, for the bootstrap to set before it loads any code.

        Raises:
            EOFError: it does not.
        """
        stands = False
        try:
            async with asyncio.timeout(ISOLATE_S):
                kind, _ = await self._frames.receive()
                if kind != b"P":
                    raise Broken
                config = bootstrap_config(self._function, self._stream, task_root, paths)
                config["limits"] = dict(limits)
                await self._frames.send(b"C", msgspec.json.encode(config))
            stands = True
        except (Broken, TimeoutError) as error:
            await self.aclose()
            raise EOFError("the environment ended before it was isolated") from error
        finally:
            if not stands:
                self._kill()
        self._log.write(self._stream, f"INIT_START Runtime Version: {self._function.runtime}")

    async def invoke(self, event: bytes, request_id: str) -> Outcome:
        try:
            return await self._invoke(event, request_id)
        finally:
            if not self._ready:
                self._kill()

    async def _invoke(self, event: bytes, request_id: str) -> Outcome:
        if not self._ready and (failed := await self._init(request_id)) is not None:
            return failed
        self._ready = False  # until the answer is here: a cancelled invocation kills the environment
        self._output.begin()
        self._log.write(self._stream, f"START RequestId: {request_id} Version: {self._function.version}")
        started_at = time.monotonic()
        timeout_s = self._function.timeout_s
        deadline_ms = int((time.time() + timeout_s) * 1000)
        try:
            async with asyncio.timeout(timeout_s):
                await self._frames.send(b"I", request_id.encode(), NUMBER.pack(deadline_ms), event)
                outcome, peak_kb = _outcome(*await self._frames.receive(), request_id)
            self._ready = True
            status = ""
        except TimeoutError:
            peak_kb = self._processes.peak_kb()
            error = f"Task timed out after {timeout_s:.2f} seconds"
            outcome = _failed("Sandbox.Timedout", request_id, error)
            status = "timeout"
        except Broken:
            out_of_memory = self._processes.out_of_memory()
            peak_kb = self._function.memory_size_mb * 1024 if out_of_memory else self._processes.peak_kb()
            outcome = _failed("Runtime.ExitError", request_id, KILLED if out_of_memory else EXITED)
            status = "error\tError Type: Runtime.ExitError"
        if not self._ready:
            self._kill()
        self._report(request_id, time.monotonic() - started_at, peak_kb, status)
        return outcome

    async def _init(self, request_id: str) -> FunctionFailed | None:
        """Wait for the handler to be loaded; why it is not. The time since creation counts."""
        try:
            async with asyncio.timeout(max(self._created_at + INIT_S - time.monotonic(), 0.1)):
                kind, body = await self._frames.receive()
            if kind == b"R":
                self._init_s = time.monotonic() - self._created_at
                return None
            if kind != b"E":
                raise Broken
            error = _document(body)
            status = f"error\tError Type: {_one_line(error.error_type)}"
            failed = FunctionFailed(error.error_type, error.error_message, body, request_id)
        except TimeoutError:
            status = "timeout"
            why = f"Task timed out after {INIT_S:.2f} seconds"
            failed = _failed("Sandbox.Timedout", request_id, why)
        except Broken:
            status = "error\tError Type: Runtime.ExitError"
            why = KILLED if self._processes.out_of_memory() else EXITED
            failed = _failed("Runtime.ExitError", request_id, why)
        self._kill()
        self._output.end()
        init_ms = (time.monotonic() - self._created_at) * 1000
        line = f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: init\tStatus: {status}"
        self._log.write(self._stream, line)
        return failed

    def _report(self, request_id: str, duration_s: float, peak_kb: int, status: str) -> None:
        self._output.end()
        duration_ms = duration_s * 1000
        used_mb = min(math.ceil(peak_kb / 1024), 1 << 20)
        line = (
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
            f"Billed Duration: {math.ceil(duration_ms)} ms\tMemory Size: {self._function.memory_size_mb} MB\t"
            f"Max Memory Used: {used_mb} MB\t"
        )
        if self._init_s is not None:
            line += f"Init Duration: {self._init_s * 1000:.2f} ms\t"
            self._init_s = None
        if status:
            line += f"Status: {status}\t"
        self._log.write(self._stream, f"END RequestId: {request_id}")
        self._log.write(self._stream, line)

    async def aclose(self) -> None:
        self._kill()
        await self._processes.gone()

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._processes.kill()
            self._output.end()
            self._output.close()
            self._frames.close()


def _outcome(kind: bytes, body: bytes, request_id: str) -> tuple[Outcome, int]:
    """What an answering frame says, and the peak of memory in KB.

    Raises:
        Broken: it is not of this request, too long, or no JSON.
    """
    if kind not in (b"S", b"F") or body[:36] != request_id.encode() or len(body) < PREFIX_BYTES:
        raise Broken
    (peak_kb,) = NUMBER.unpack_from(body, 36)
    payload = body[PREFIX_BYTES:]
    if kind == b"F":
        error = _document(payload)
        return FunctionFailed(error.error_type, error.error_message, payload, request_id), peak_kb
    if len(payload) > MAX_RESPONSE_BYTES:
        raise Broken
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken from error
    return Success(payload, request_id), peak_kb


def _document(body: bytes) -> _Error:
    """Raises Broken where it is no error document."""
    try:
        return msgspec.json.decode(body, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Broken from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _failed(kind: str, request_id: str, why: str) -> FunctionFailed:
    message = f"RequestId: {request_id} Error: {why}"
    payload = msgspec.json.encode({"errorType": kind, "errorMessage": message})
    return FunctionFailed(kind, message, payload, request_id)
