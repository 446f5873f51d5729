"""Runs a Python handler inside an execution environment. Standard library and simplejson only.

Frames are `type (1 byte) · length (4 bytes, big endian) · body`:

    daemon → here   C  configuration, JSON: handler, environment, task_root, layers, runtime, limits, context,
                       snap_start
                    A  go on after a snapshot
                    I  invocation: request id (36 bytes) · deadline (8 bytes, Unix ms) ·
                       X-Ray's header: its length (1 byte), its text · event
    here → daemon   R  handler loaded; `forks`: each runtime is a fork of this one
                    E  handler not loaded: error document
                    S  request id · peak memory (8 bytes, KB) · result
                    F  request id · peak memory (8 bytes, KB) · error document
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import encoding, handlers, log_format, modules, snapshotting, threads, trace
from .connection import Connection
from .context import LambdaContext

INVOCATION = struct.Struct("!36sQB")
NUMBER = struct.Struct("!Q")
KB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # ru_maxrss is bytes on macOS
REHEARSALS = 64
EVENT = b'{"Records": [{"messageId": "1", "body": "{}", "attributes": {"n": 1.5}}], "none": null}'
ABOUT = (
    "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb", "function_version",
    "invoked_function_arn",
)  # fmt: skip
ARGUMENTS = ["/var/runtime/bootstrap.py"]
"""The arguments that a handler sees in `sys.argv` on AWS."""


def make_ready() -> None:
    """Do ahead what is the same for each function, in the process that is then forked."""
    modules.name_interactive_ones()
    rehearse()


def rehearse() -> None:
    """Run what each invocation runs, until the interpreter has written what it writes to its own code.

    It adapts code to what it meets there (PEP 659), and that is a write to pages that forks else share.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        near, far = Connection([ours.fileno()]), Connection([theirs.fileno()])
        traced, requests = trace.Trace(), log_format.RequestId()
        for _ in range(REHEARSALS):
            far.send(b"I", INVOCATION.pack(b"-" * 36, 0, 1), b"-", EVENT)
            _serve(near, lambda event, context: event, dict.fromkeys(ABOUT), traced, requests)
            far.receive()
        traced.take_away()


def run(ends: Sequence[int], supervisor: socket.socket | None = None) -> None:
    """Load the handler that the first frame names, then serve invocations until the frames end.

    With a `supervisor`, that is done in forks of this process, as it asks for them.
    """
    connection = Connection(ends)
    _, body = connection.receive()
    config = json.loads(body)
    prepare(config)
    requests = log_format.set_up()
    try:
        handler = handlers.load(config["handler"])
        if config["snap_start"]:
            handlers.run_hooks(snapshotting.run_hooks, snapshotting.BEFORE, "Runtime.BeforeSnapshotError")
            own = snapshotting.wait(connection, supervisor)
            if own is not None:
                connection = Connection(own)
                connection.receive()
            handlers.run_hooks(snapshotting.run_hooks, snapshotting.AFTER, "Runtime.AfterRestoreError")
    except handlers.InitFailed as failed:
        log_format.write_error(failed.document)
        connection.send(b"E", encoding.encode(failed.document))
        return
    connection.send(b"R")
    about, traced = config["context"], trace.Trace()
    while True:
        _serve(connection, handler, about, traced, requests)


def _serve(
    connection: Connection, handler: Any, about: Any, traced: trace.Trace, requests: log_format.RequestId
) -> None:
    """Take one invocation, and answer it."""
    _, frame = connection.receive()
    request_id, deadline_ms, length = INVOCATION.unpack_from(frame)
    begin = INVOCATION.size + length
    traced.set(frame[INVOCATION.size : begin])
    requests.aws_request_id = request_id.decode()
    context = LambdaContext(about, requests.aws_request_id, deadline_ms)
    kind, answer = handlers.invoke(handler, frame[begin:], context)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the function may have closed or replaced it
            stream.flush()
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB_PER_UNIT)
    connection.send(kind, request_id, NUMBER.pack(peak), answer)


def prepare(config: dict[str, Any]) -> None:
    """Set limits, environment, folder, module path and output of this process."""
    for name, limit in config["limits"].items():
        set_limit(name, limit)
    os.environ.clear()
    os.environ.update(config["environment"])
    time.tzset()
    os.chdir(config["task_root"])
    become_a_runtime(config["task_root"], config["layers"], config["runtime"], config["handler"])


def become_a_runtime(task_root: str, layers: list[str], runtime: str, handler: str) -> None:
    """Make modules, arguments, output and names those of AWS's runtime."""
    sys.argv = [*ARGUMENTS]
    first = modules.order(task_root, layers, runtime, os.environ.get("PYTHONPATH", ""))
    modules.give_way(first, handler)
    encoding.choose(os.environ.get("AWS_EXECUTION_ENV", ""))
    log_format.open_streams()


def set_limit(name: str, limit: int) -> None:
    """Set a resource limit, where the system has it and allows it."""
    number = getattr(resource, name, None)
    if number is None:
        return
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    stacks = name == "RLIMIT_DATA"
    most = (
        limit + threads.THREADS * threads.SMALL_STACK_BYTES
        if stacks and hard == resource.RLIM_INFINITY
        else limit
    )
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(number, (limit, most))
    if stacks:
        threads.make_room(threads.SMALL_STACK_BYTES)


def main() -> None:
    """Entry point of a bootstrap that is a process of its own, told the descriptors of its frames."""
    run([int(number) for number in sys.argv[1:]])
