"""Takes from an interpreter what Linux alone has, as macOS is without it; also a stand-in for `python`.

As a program it does what `python [OPTIONS] FILE|-c CODE ARGUMENTS` does, but without Linux. It knows the
options that this project starts interpreters with.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import resource
import runpy
import select
import signal
import socket
import sys
from typing import Any

LINUX_ALONE = {
    os: (
        "pidfd_open", "memfd_create", "pipe2", "eventfd", "splice", "copy_file_range", "getrandom", "unshare",
        "setns", "sched_setaffinity", "sched_getaffinity", "posix_fadvise", "O_PATH", "O_TMPFILE", "getxattr",
        "setresuid", "setresgid", "getresuid",
    ),
    socket: (
        "SO_PEERCRED", "SO_PASSCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "SOCK_SEQPACKET", "SCM_CREDENTIALS",
        "AF_NETLINK", "AF_PACKET",
    ),
    select: ("epoll",),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    resource: (
        "prlimit", "RLIMIT_NICE", "RLIMIT_MSGQUEUE", "RLIMIT_SIGPENDING", "RLIMIT_RTPRIO", "RLIMIT_OFILE",
    ),
}  # fmt: skip
"""Sources: Python's documentation of each, "Availability"."""

FOLDERS = ("/proc", "/sys")


def take_away() -> None:
    """Make this interpreter one of macOS, as far as the project can see."""
    sys.platform = "darwin"
    for module, names in LINUX_ALONE.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for place, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "listdir"), (os, "scandir")):
        setattr(place, name, _without_folders(getattr(place, name)))
    ctypes.CDLL = _CDLL  # type: ignore[misc]


def _without_folders(call: Any) -> Any:
    def checked(path: Any = ".", *arguments: Any, **named: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(FOLDERS):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return call(path, *arguments, **named)

    return checked


class _CDLL(ctypes.CDLL):
    """A C library without Linux's own calls."""

    def __getattr__(self, name: str) -> Any:
        if name in ("prctl", "unshare", "setns", "mount", "umount2"):
            raise AttributeError(f"dlsym(RTLD_DEFAULT, {name}): symbol not found")
        return super().__getattr__(name)


def main() -> None:
    """Run what the arguments name."""
    take_away()
    arguments = sys.argv[1:]
    while arguments and arguments[0] in ("-I", "-S", "-E", "-s", "-P", "-B"):
        del arguments[0]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        return
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
