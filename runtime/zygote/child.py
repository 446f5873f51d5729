"""Forked by the supervisor of an environment: becomes our bootstrap, or a program. Standard library only."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import socket
import traceback
from typing import Any

from ..bootstrap import threads
from . import image

PR_SET_DUMPABLE = 4
OOM_SCORE = "500"  # where memory ends, a function goes before its supervisor, its template and the host
FILES = 1024
"""Descriptors of what is started. Source: AWS, "Lambda quotas". The supervisor itself is not held to it: the
kernel refuses whoever sends a descriptor while more than that of the same user are in flight."""

EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE = 127, 126

stacks_mb = 0
"""Room for stacks of threads in the limit of memory, which whoever isolated this process has set."""

libc = ctypes.CDLL(None, use_errno=True)


def set_apart() -> None:
    """Do what is the same for whatever this process becomes."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    random.seed()
    files = min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def start(request: dict[str, Any], descriptors: list[int]) -> None:
    """Become what is asked for, right after the fork. Does not return."""
    apart = False
    try:
        set_apart()
        apart = True
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        if not apart:
            os._exit(1)
    become(request, descriptors)


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Become what is asked for. Does not return."""
    status = 1
    try:
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        image.write("/proc/self/oom_score_adj", OOM_SCORE)  # of one that is not dumpable it may be root's
        output = descriptors[-1]
        os.dup2(output, 1)
        os.dup2(output, 2)
        if request["op"] == "exec":
            status = _execute(request)
        else:
            _run_bootstrap(request["op"] == "snapshot", descriptors[:-1])
            status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _run_bootstrap(forks: bool, descriptors: list[int]) -> None:
    ends = [
        os.dup2(end, 3 + place, inheritable=False) for place, end in enumerate(descriptors)
    ]  # their places are those of the supervisor's own, or of what came before them
    os.closerange(3 + len(ends), FILES)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as every Python has them
        signal.signal(number, signal.SIG_IGN)
    own = socket.socket(fileno=ends.pop()) if forks else None
    from ..bootstrap import bootstrap  # loaded by then, where there are functions that need it

    _limit_memory()
    bootstrap.run(ends, own)


def _limit_memory() -> None:
    """To the function's, and stacks of threads beside it as there are any."""
    limit, most = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (limit - stacks_mb * 1024 * 1024, most))
    threads.make_room(stacks_mb * 1024 * 1024 // threads.THREADS)


def _execute(request: dict[str, Any]) -> int:
    """Become the program. Returns the exit status of a shell that could not."""
    os.closerange(3, FILES)
    command = request["command"]
    try:
        os.chdir(request["directory"])
        os.execvpe(command[0], command, request["environment"])
    except OSError as error:
        os.write(2, f"{command[0]}: {os.strerror(error.errno or 0)}\n".encode())
        return EXIT_NOT_FOUND if error.errno == 2 else EXIT_NOT_EXECUTABLE
