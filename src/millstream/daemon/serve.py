"""Runs a daemon in the foreground: signals, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from enum import IntEnum

from millstream.contract.errors import (
    InvalidConfiguration,
    MillstreamError,
    SandboxUnavailable,
    StateUnavailable,
)
from millstream.daemon.daemon import Daemon
from millstream.daemon.data_dir import DataDirInUse
from millstream.daemon.event_loop import new_event_loop

DESCRIPTORS = 1 << 16
"""As many as the daemon wants: ten thousand environments."""


PR_SET_NAME = 15
PRIVATE = 0o077
"""The umask of the daemon: logs and state hold what customers sent, and are for its own user."""


class ExitCode(IntEnum):
    """What the command line's exit status means."""

    OK = 0
    FAILED = 1  # a function failed, the demo lost something, or no daemon answered
    WRONG = 2  # what was declared or asked is wrong
    STATE = 3  # the data directory is in use, or cannot be read or written
    SANDBOX = 4  # this host cannot isolate functions
    CUT_SHORT = 5  # stopped before what was in flight had ended; it comes again


def exit_code(error: MillstreamError) -> ExitCode:
    """The exit status of an error that ends a command."""
    match error:
        case InvalidConfiguration():
            return ExitCode.WRONG
        case StateUnavailable() | DataDirInUse():
            return ExitCode.STATE
        case SandboxUnavailable():
            return ExitCode.SANDBOX
        case _:
            return ExitCode.FAILED


def allow_descriptors() -> None:
    """Have as many descriptors as the host allows: each environment takes six, and shells allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_process(name: str) -> None:
    """Have `ps -o comm` and the kernel's log name this process so, where that is Linux's."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def serve(daemon: Daemon) -> ExitCode:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Raises:
        MillstreamError: it cannot start.
    """
    allow_descriptors()
    os.umask(PRIVATE)
    name_process("millstream")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(daemon))


async def _serve(daemon: Daemon) -> ExitCode:
    loop = asyncio.get_running_loop()
    signals = 0
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_running(daemon))

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            if signals == 1:
                daemon.stop()
            else:
                running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await asyncio.wait([running])
    if running.cancelled():
        return ExitCode.CUT_SHORT
    error = running.result()
    if error is not None:
        raise error
    return ExitCode.OK if daemon.drained else ExitCode.CUT_SHORT


async def _running(daemon: Daemon) -> MillstreamError | None:
    """Why the daemon could not start; as a value, for the group would wrap what is raised."""
    try:
        await daemon.run()
    except MillstreamError as error:
        return error
    return None
