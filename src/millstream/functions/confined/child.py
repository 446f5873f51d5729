"""A program that takes foreign bytes apart: zips, tars, Python, ignore files. It can do nothing else.

It loads what its task needs, gives up root, and its user's rights to files and other processes, and then
lowers its limits so far that it can open nothing: no file, no socket, no process. It reads requests from its
standard input, and answers on its standard output. See docs/adr/0010-packages-are-taken-apart-in-a-child.md.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TypeAlias

from millstream.functions.confined import landlock
from millstream.functions.confined.frames import SOURCE, Kind, Over, write

Serve: TypeAlias = Callable[[BinaryIO, BinaryIO], None]
"""A task: reads requests from the first, and answers on the second, until there are no more."""


def main() -> None:
    """Entry point: the task, the descriptor (-1: none), the user to be, CPU seconds, bytes of memory."""
    task, (descriptor, user, cpu_s, memory_bytes) = sys.argv[1], map(int, sys.argv[2:6])
    if descriptor >= 0:
        os.dup2(descriptor, SOURCE)
        if descriptor != SOURCE:
            os.close(descriptor)
    serve = _task(task)
    confine(user, cpu_s, memory_bytes, SOURCE + 1 if descriptor >= 0 else SOURCE)
    out = sys.stdout.buffer
    with suppress(Over, BrokenPipeError):
        try:
            serve(sys.stdin.buffer, out)
        except MemoryError:
            _say(out, f"more than {memory_bytes >> 20} MB of memory needed")
        except (Over, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001  foreign bytes may raise anything in a decoder
            _say(out, f"{error}"[:300] or type(error).__name__)
    os._exit(0)  # what is left to be flushed has nobody to read it


def confine(user: int, cpu_s: int, memory_bytes: int, descriptors: int) -> None:
    """Give up root, and all that could be opened from now on. `descriptors` are those that are open."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
    }
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):  # macOS has no RLIMIT_AS, and hard limits may be lower
            resource.setrlimit(kind, (limit, limit))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    landlock.give_up_rights()  # an ordinary user's child is that user still, and removing a file opens none
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def _task(name: str) -> Serve:
    """A task, with all that it will ever import."""
    if name == "zip":
        from millstream.functions.confined.zips import serve
    elif name == "tar":
        from millstream.functions.confined.tars import serve
    elif name == "python":
        from millstream.functions.confined.python import serve
    else:
        from millstream.functions.confined.ignoring import serve
    return serve


def _say(out: BinaryIO, why: str) -> None:
    write(out, Kind.FAULT, json.dumps(why).encode("ascii"))
    out.flush()
