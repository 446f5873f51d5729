"""Lets a process have as many threads as on Lambda, whatever its memory. Standard library only.

RLIMIT_DATA counts a thread's stack as a whole, however little of it is touched. So the limit, which is the
function's memory, goes up and down with its threads, as far as the hard limit allows.
"""

from __future__ import annotations

import _thread
import resource
import threading
from typing import Any

THREADS = 1024
"""Source: AWS, "Lambda quotas": processes and threads."""

STACK_BYTES = 2 * 1024 * 1024
SMALL_STACK_BYTES = 512 * 1024
"""Stacks where no cgroup counts the pages that are touched: a hostile function can take less for memory."""

CACHED_BYTES = 40 * 1024 * 1024
"""Stacks of threads that have ended, which the C library keeps. Source: glibc, nptl/allocatestack.c."""

STARTERS = ("start_new_thread", "start_joinable_thread")


def make_room(stack_bytes: int) -> None:
    """Have each thread that is started raise the soft limit, from what it is now.

    Stacks that the function itself makes larger are its memory. (To ask for their size is to reset it.)
    """
    threading.stack_size(stack_bytes)
    base, most = resource.getrlimit(resource.RLIMIT_DATA)
    if base == resource.RLIM_INFINITY:
        return

    def room(more: int) -> None:
        """For those there are, and so many more."""
        stacks_bytes = (_thread._count() + more) * stack_bytes + CACHED_BYTES
        wanted = base + stacks_bytes
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))

    for name in STARTERS:
        if hasattr(_thread, name):
            starter = _starter(getattr(_thread, name), room)
            setattr(_thread, name, starter)
            setattr(threading, f"_{name}", starter)


def _starter(start: Any, room: Any) -> Any:
    def started(function: Any, *arguments: Any, **named: Any) -> Any:
        def ended(*its: Any, **its_named: Any) -> None:
            try:
                function(*its, **its_named)
            finally:
                room(0)

        room(1)
        return start(ended, *arguments, **named)

    return started
