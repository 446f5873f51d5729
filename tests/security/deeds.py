"""Attempts that take a function of their own: its code, and how what came of it is judged."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from millstream.contract.functions import Success
from tests.runtime.conftest import Runtime
from tests.runtime.test_runtime_api import of_ric
from tests.security.arena import living, named
from tests.security.outcomes import (
    BOUNDED,
    DENIED,
    POSSIBLE,
    UNTRIED,
    WITH_CGROUP,
    Attempt,
    Outcome,
    everywhere,
)
from tests.security.restless import TIMER, woke_while_frozen

RESOURCES = "resources"
RESULTS = "results"
ENDS = "the end"
MOST_LOG_BYTES = 8 * 1024 * 1024

Judge = Callable[[Runtime], Awaitable[Outcome]]
After = Callable[[], Outcome]
"""Asked once the environment has ended."""


@dataclass(frozen=True)
class Deed(Attempt):
    """One with a function of its own, which `judge` is given; its handler does it for the event True."""

    judge: Judge
    after: After | None = None  # judges instead
    spec: dict[str, Any] = field(default_factory=dict)


async def fails_alone(it: Runtime) -> Outcome:
    """The attempt is a failure of its own invocation, and of none after it."""
    failed = not isinstance(await it.invoke(True), Success)
    assert await it.answer(False) == "fine"
    return DENIED if failed else POSSIBLE


async def fails_within_bounds(it: Runtime) -> Outcome:
    """As before, of something that cannot be denied."""
    return BOUNDED if await fails_alone(it) == DENIED else POSSIBLE


async def reaches_no_other(it: Runtime) -> Outcome:
    """What is said for a request that has not come is no answer to it."""
    await it.invoke(True)
    return DENIED if await it.answer(False) == "fine" else POSSIBLE


async def stays_within_its_log(it: Runtime) -> Outcome:
    """The log is no longer than it may be, and tells of what it has not."""
    await it.invoke(True)
    assert await it.answer(False) == "fine"
    log = it.log()
    told = re.search(r"LOGS_DROPPED|platform\.logsDropped", log) is not None
    return BOUNDED if told and len(log) < MOST_LOG_BYTES else POSSIBLE


def says(wanted: Outcome) -> Judge:
    """The function itself sees whether it was held back."""

    async def judge(it: Runtime) -> Outcome:
        held_back = await it.answer(True)
        assert await it.answer(False) == "fine"
        return wanted if held_back else POSSIBLE

    return judge


async def runs_no_more(it: Runtime) -> Outcome:
    """The environment of the function stays frozen, or is ended."""
    await it.answer("evade")
    if "frozen by the kernel" in it.sandbox.limits():
        return BOUNDED if await woke_while_frozen(it) == 0 else POSSIBLE
    try:
        async with asyncio.timeout(60.0):
            while it.pool.idle("f"):
                await asyncio.sleep(0.02)
    except TimeoutError:
        return POSSIBLE
    return BOUNDED


def outlives(name: str, *, reset: bool = False) -> tuple[Judge, After]:
    """Something of this name goes on after the environment, or after a reset of it."""

    async def judge(it: Runtime) -> Outcome:
        await it.invoke(True)
        if not reset:
            named(name)
            return DENIED  # `after` looks again
        assert await it.answer(False) == "fine"
        return POSSIBLE if living(name) else DENIED

    def after() -> Outcome:
        left = living(name)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return POSSIBLE if left else DENIED

    return judge, after


def handler(*lines: str, before: str = "") -> str:
    """A handler that does these lines for True, and answers `fine` else."""
    body = "".join(f"        {line}\n" for line in lines)
    return f"{before}\ndef handle(e, c):\n    if e:\n{body}    return 'fine'\n"


FRAMES = r"""
import os, socket, struct, time
def frames():
    for number in range(3, 64):
        try:
            one = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM:
            return one
def said(kind, request_id, body):
    return kind + struct.pack("!I", 44 + len(body)) + request_id.encode() + bytes(8) + body
OTHER = "00000000-0000-4000-a000-000000000000"
"""

HTTP = r"""
import os, socket, time, urllib.request
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
def connected():
    try:
        return socket.create_connection((host, int(port)), 0.1)
    except OSError:
        return None
"""

REFUSED = r"""
import urllib.error, urllib.request
def refused(request_id):
    api = os.environ["AWS_LAMBDA_RUNTIME_API"]
    try:
        urllib.request.urlopen(f"http://{api}/2018-06-01/runtime/invocation/{request_id}/response", b"1")
    except urllib.error.HTTPError as error:
        return error.code == 400
"""

BOMB = r"""
import os, resource, time
def bomb():
    if "TMPDIR" in os.environ:  # no namespace: the limit is of all functions, other tests' among them
        return resource.getrlimit(resource.RLIMIT_NPROC)[0] <= 4096
    made = 0
    try:
        while made < 2000:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            made += 1
    except OSError:
        pass
    return made < 1024
"""

SENT = r"""
import socket
kept = []
def filled():
    server, ours = socket.socket(), socket.socket()
    for each, kind in ((server, socket.SO_RCVBUF), (ours, socket.SO_SNDBUF)):
        each.setsockopt(socket.SOL_SOCKET, kind, 1 << 30)
    server.bind(("127.0.0.1", 0))
    server.listen()
    ours.connect(server.getsockname())
    ours.settimeout(0.2)
    kept.extend((ours, server.accept()))
    sent, data = 0, bytes(1 << 20)
    try:
        while sent < 64 << 20:
            sent += ours.send(data)
    except TimeoutError:
        pass
    return sent
"""

LEAVE = r"""
import os
def leave(name):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/usr/bin/sleep", [name, "60"])
        os._exit(0)
    os.close(write)
    os.read(read, 1)  # until it sleeps
"""

OUTLIVER, SURVIVOR = (f"stays-{uuid.uuid4().hex}" for _ in range(2))
OUTLIVES, SURVIVES = outlives(OUTLIVER), outlives(SURVIVOR, reset=True)
ALIKE = (DENIED, DENIED, DENIED)

DEEDS: tuple[Deed, ...] = (
    Deed(
        RESOURCES, "fork bomb", (BOUNDED, BOUNDED, BOUNDED, BOUNDED, UNTRIED),
        handler("return bomb()", before=BOMB), says(BOUNDED), spec={"memory_size_mb": 512},
    ),
    Deed(
        RESOURCES, "memory bomb of one process", everywhere(BOUNDED),
        handler("return len(bytearray(400 << 20))"), fails_within_bounds,
    ),
    Deed(
        RESOURCES, "memory bomb of one process, which has raised its limit first", everywhere(BOUNDED),
        handler(
            "most = resource.getrlimit(resource.RLIMIT_DATA)[1]",
            "resource.setrlimit(resource.RLIMIT_DATA, (most, most))",
            "return len(bytearray(3 << 30))",
            before="import resource",
        ),
        fails_within_bounds,
    ),
    Deed(
        RESOURCES, "memory bomb of many processes, or of shared memory",
        (WITH_CGROUP, WITH_CGROUP, BOUNDED, UNTRIED, UNTRIED),
        handler(
            "area = mmap.mmap(-1, 1 << 30)", "for page in range(0, 1 << 30, 4096):", "    area[page] = 1",
            before="import mmap",
        ),
        fails_within_bounds,
    ),
    Deed(
        RESOURCES, "filling /tmp", (BOUNDED, BOUNDED, BOUNDED, POSSIBLE, POSSIBLE),
        handler(
            "try:",
            "    for number in range(4):",
            "        open(f'{tempfile.gettempdir()}/{number}', 'wb').write(bytes(8 << 20))",
            "except OSError:",
            "    return True",
            "return False",
            before="import tempfile",
        ),
        says(BOUNDED), spec={"ephemeral_storage_mb": 16},
    ),
    Deed(
        RESOURCES, "descriptors without end", everywhere(BOUNDED),
        handler(
            "kept = []",
            "try:",
            "    while len(kept) < 5000:",
            "        kept.append(os.dup(1))",
            "except OSError:",
            "    pass",
            "for one in kept:",
            "    os.close(one)",
            "return len(kept) < 1024",
            before="import os",
        ),
        says(BOUNDED),
    ),
    Deed(
        RESOURCES, "memory of the host in buffers of sockets", (BOUNDED, BOUNDED, BOUNDED, UNTRIED, UNTRIED),
        handler("return sum(filled() for _ in range(20)) < 20 << 20", before=SENT), says(BOUNDED),
        spec={"timeout_s": 60.0},
    ),
    Deed(
        RESOURCES, "flooding the log", everywhere(BOUNDED),
        handler(
            "for _ in range(300):", "    os.write(1, b'x' * 999 + b'\\n' + b'x' * 59000)", before="import os"
        ),
        stays_within_its_log,
    ),
    Deed(
        RESOURCES, "output without end", everywhere(BOUNDED),
        handler("while True:", "    os.write(1, b'\\n' * 60000)", before="import os"),
        stays_within_its_log, spec={"timeout_s": 1.0},
    ),
    Deed(
        RESOURCES, "half requests, and hundreds of connections, to the APIs of its environment",
        everywhere(BOUNDED),
        handler(
            "kept = [connected() for _ in range(200)]",
            "for each in filter(None, kept):",
            "    try:",
            "        each.send(b'POST /2020-01-01/extension/register HTTP/1.1\\r\\nContent-Le')",
            "    except OSError:",
            "        pass",
            "return True",
            before=HTTP,
        ),
        says(BOUNDED), spec={"timeout_s": 60.0},
    ),
    Deed(
        RESULTS, "a response above 6 MB, on the runtime's own socket", everywhere(DENIED),
        handler(
            "frames().sendall(said(b'S', c.aws_request_id, bytes(7 << 20)))", "time.sleep(20)", before=FRAMES
        ),
        fails_alone, spec={"timeout_s": 2.0},
    ),
    Deed(
        RESULTS, "a response for another request", everywhere(DENIED),
        handler("frames().sendall(said(b'S', OTHER, b'1'))", "time.sleep(20)", before=FRAMES),
        fails_alone, spec={"timeout_s": 2.0},
    ),
    Deed(
        RESULTS, "a response for another request, by the Runtime API", everywhere(DENIED),
        handler("return refused(OTHER)", before=FRAMES + REFUSED), says(DENIED), spec=of_ric(),
    ),
    Deed(
        RESULTS, "a response ahead of the next request", everywhere(DENIED),
        handler("frames().sendall(said(b'S', c.aws_request_id, b'1') * 2)", "time.sleep(20)", before=FRAMES),
        reaches_no_other,
    ),
    Deed(
        RESULTS, "results written to every descriptor that it has inherited", everywhere(DENIED),
        handler(
            "for number in range(3, 64):",
            "    try:",
            "        os.write(number, said(b'S', OTHER, b'1') + b'{\"exited\": 1, \"status\": 0}')",
            "    except OSError:",
            "        pass",
            "time.sleep(20)",
            before=FRAMES,
        ),
        fails_alone, spec={"timeout_s": 2.0},
    ),
    Deed(
        ENDS, "ignoring SIGTERM, and its time limit", everywhere(BOUNDED),
        handler(
            "for number in (1, 2, 3, 15):",
            "    signal.signal(number, signal.SIG_IGN)",
            "while True:",
            "    pass",
            before="import signal",
        ),
        fails_within_bounds, spec={"timeout_s": 1.0},
    ),
    Deed(
        ENDS, "running while it is frozen, by a timer that continues it",
        (BOUNDED, BOUNDED, BOUNDED, UNTRIED, UNTRIED), TIMER, runs_no_more,
    ),
    Deed(
        ENDS, "outliving the environment, by setsid and double fork", (*ALIKE, POSSIBLE, POSSIBLE),
        handler(f"leave({OUTLIVER!r})", before=LEAVE), *OUTLIVES,
    ),
    Deed(
        ENDS, "outliving a reset of it, in the same way", (*ALIKE, POSSIBLE, POSSIBLE),
        handler(f"leave({SURVIVOR!r})", "os._exit(1)", before=LEAVE), *SURVIVES,
    ),
)  # fmt: skip
