"""Where probes are run: a function that tries them, another one beside it, and what the host has to lose."""

from __future__ import annotations

import os
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.clock import SystemClock
from millstream.contract.functions import FunctionSpec, Success
from millstream.contract.registry import load_plugin
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool
from tests.security.outcomes import Probe

TRIES = r"""
import ctypes, os, platform, resource, signal, socket, struct, tempfile, textwrap
libc = ctypes.CDLL(None, use_errno=True)
def call(numbers, *arguments):
    if libc.syscall(numbers[platform.machine() == "aarch64"], *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True
def done(way):
    try:
        way()
    except OSError:
        return False
    return True
def opened(*wanted):
    return done(lambda: socket.socket(*wanted).close())
def attempt(code, e):
    names = dict(globals())
    exec("def attempt(e):\n" + textwrap.indent(code, "    "), names)
    return names["attempt"](e)
def tried(code, e):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            signal.alarm(10)
            said = "yes" if attempt(code, e) else "no"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, said.encode()[:4000])
            os._exit(0)
    os.close(write)
    said = os.read(read, 4096).decode()
    os.close(read)
    status = os.waitpid(pid, 0)[1]  # gone, with all that it knew, before the next attempt
    return said or f"ended: {status}"
def handle(e, c):
    e["facts"]["temporary"] = tempfile.gettempdir()
    return {name: tried(code, e["facts"]) for name, code in e["attempts"].items()}
"""

OTHER = r"""
import os, tempfile
MARK = %r
def handle(e, c):
    open(tempfile.gettempdir() + "/mark", "w").write(MARK)
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", [os.environ["NAME"], "60"])
"""


@asynccontextmanager
async def arena(driver: str, folder: Path) -> AsyncIterator[Any]:
    """`answer(probes)`: what each of them said, `yes` if it came through."""
    mark = uuid.uuid4().hex
    name = f"sleeps-{uuid.uuid4().hex}"
    specs = {
        "f": _function(folder, "f", TRIES),
        "other": replace(
            _function(folder, "other", OTHER % mark), environment={"SECRET": mark, "NAME": name}
        ),
    }
    sandbox = load_plugin("sandboxes", driver)(folder / "sandboxes")
    await sandbox.start()
    ledger = ConcurrencyLedger(100, [*specs.values()])
    pool = RuntimePool(
        specs, sandbox, ledger, FunctionLogs(folder / "logs"), SystemClock(), freeze_after_s=None
    )
    with ExitStack() as stack:
        facts = _facts(stack, folder, mark)
        try:
            async with pool:
                begun = await pool.invoke("other", b"null")
                assert isinstance(begun, Success), begun
                facts["other"] = named(name)[0]

                async def answer(probes: Iterable[Probe]) -> Any:
                    attempts = {probe.name: probe.code for probe in probes}
                    event = msgspec.json.encode({"attempts": attempts, "facts": facts})
                    outcome = await pool.invoke("f", event)
                    assert isinstance(outcome, Success), outcome
                    return msgspec.json.decode(outcome.payload)

                yield answer
        finally:
            await sandbox.aclose()


def named(name: str) -> list[int]:
    """Processes of this host whose command is this; one that is about to be there is waited for."""
    until = time.monotonic() + 5.0
    while not (found := living(name)) and time.monotonic() < until:
        pass
    assert found, "the process is not to be seen from the host"
    return found


def living(name: str) -> list[int]:
    """The same, now."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == name.encode():
            found.append(int(pid))
    return found


def _function(folder: Path, name: str, code: str) -> FunctionSpec:
    (folder / name).mkdir()
    (folder / name / f"{name}.py").write_text(code, encoding="utf-8")
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    return FunctionSpec(name, arn, f"{name}.handle", folder / name, timeout_s=60.0, memory_size_mb=512)


def _facts(stack: ExitStack, folder: Path, mark: str) -> dict[str, Any]:
    secret = folder / "secret"
    secret.write_text(mark)
    secret.chmod(0o600)
    in_tmp = stack.enter_context(tempfile.NamedTemporaryFile("w", dir="/tmp"))  # noqa: SIM115
    in_tmp.write(mark)
    in_tmp.flush()
    Path(in_tmp.name).chmod(0o644)
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind(f"\0{mark}")
    abstract.listen()
    return {
        "mark": mark,
        "halves": [mark[:16], mark[16:]],
        "secret": str(secret),
        "in_tmp": in_tmp.name,
        "daemon": os.getpid(),
        "other_code": str(folder / "other" / "other.py"),
        "sandboxes": str(folder / "sandboxes"),
        "port": server.getsockname()[1],
        "abstract": mark,
    }
