"""A function that is loaded, and waits to be restored. Standard library only.

    loaded ── hooks before ──► waits ──┬── in place, when its frames say so ────► hooks after ──► serves
                                       └── in forks, as its supervisor asks ────► hooks after ──► serves

What is forked is a child of the supervisor's, its parent being gone, with frames of its own. A process
that has threads, or children, cannot be told apart from its fork: it goes on itself, once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import socket
import sys
from typing import Any, Protocol

PR_SET_DUMPABLE = 4
FORKS = b"forks"
HERE, FAILED = b"+", b"-"
BEFORE, AFTER = "get_before_snapshot", "get_after_restore"


class Frames(Protocol):
    """The bootstrap's connection."""

    def send(self, kind: bytes, *parts: bytes) -> None: ...

    def receive(self) -> tuple[bytes, bytes]: ...

    def close(self) -> None: ...


def run_hooks(getter: str) -> None:
    """Call what the function registered; what was registered last is first to be called before a snapshot.

    Source: AWS, "Lambda SnapStart runtime hooks", Python.
    """
    registry = sys.modules.get("snapshot_restore_py")
    if registry is None:
        return
    hooks: list[tuple[Any, Any, Any]] = getattr(registry, getter)()
    if getter == AFTER:
        for hook, arguments, named in hooks:
            hook(*arguments, **named)
        return
    while hooks:
        hook, arguments, named = hooks.pop()
        hook(*arguments, **named)


def wait(connection: Frames, supervisor: socket.socket | None) -> list[int] | None:
    """Say that the snapshot is there, and return in each process that is restored from it.

    The descriptors for the frames of that process; None: those that it has.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the function may have closed or replaced it
            stream.flush()
    gc.collect()
    if supervisor is None or not _alone():
        connection.send(b"R")
        connection.receive()
        random.seed()
        return None
    gc.freeze()  # what a fork does not touch stays shared
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    connection.send(b"R", FORKS)
    connection.close()
    return _fork(supervisor)


def _alone() -> bool:
    """True if a fork has all that this process is."""
    if len(os.listdir("/proc/self/task")) > 1:
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _fork(supervisor: socket.socket) -> list[int]:
    """Fork at each request. Returns in the forks alone."""
    while True:
        message, received, _, _ = socket.recv_fds(supervisor, 64, 2)
        if not message:
            os._exit(0)
        child = -1
        try:
            child = os.fork()
            if child == 0:
                if os.fork():
                    os._exit(0)  # its child is the supervisor's from now on
                return _restored(supervisor, received)
            with contextlib.suppress(ChildProcessError):  # the function may ignore SIGCHLD
                os.waitpid(child, 0)
        except OSError:
            supervisor.send(FAILED)
            if child == 0:
                os._exit(1)
        for descriptor in received:
            os.close(descriptor)


def _restored(supervisor: socket.socket, frames: list[int]) -> list[int]:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    random.seed()
    supervisor.send(HERE)  # the kernel tells it who says so
    supervisor.close()
    return frames
