"""Attempts to take what the host's kernel counts for all: another function must not notice.

The handler of each takes all that it can get, and keeps it while it is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.security.outcomes import BOUNDED, POSSIBLE, UNTRIED, WITH_IDS, Attempt, everywhere

SHARED = "what the kernel counts for all"

CALLS = r"""
import builtins, ctypes, os, platform, select, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)
kept = builtins.kept = []
def call(numbers, *arguments):
    return libc.syscall(numbers[platform.machine() == "aarch64"], *arguments)
"""


WATCHES = r"""
def hoard(told):
    event = os.eventfd(0)
    watched = [os.dup(event) for _ in range(500)]  # each is counted, and no file of its own is needed
    held, ends_at, full = [], time.monotonic() + 60, False
    while len(held) < 480:
        held.append(select.epoll())
        for each in watched:
            while not done(held[-1], each) and time.monotonic() < ends_at:
                if not full:
                    os.write(told, b".")
                full = True
                time.sleep(0.005)  # what others give back is taken, too
    os.write(told, b"m")
    time.sleep(600)
def done(one, each):
    try:
        return one.register(each, 0) is None
    except OSError:
        return False
def hoards(most, ends_at):
    said, told = os.pipe()
    for number in range(most):
        if os.fork() == 0:
            hoard(told)
        if number >= os.cpu_count() - 1 and (os.read(said, 1) == b"." or time.monotonic() > ends_at):
            time.sleep(1)  # others need some meanwhile
            return number
"""


@dataclass(frozen=True)
class Siege(Attempt):
    """`needs` is the body of a function of the victim's, which says whether it has what it needs."""

    needs: str = ""
    spec: dict[str, Any] = field(default_factory=dict)


def taker(*lines: str) -> str:
    """The code of a function whose handler does these lines."""
    return CALLS + "def handle(e, c):\n" + "".join(f"    {line}\n" for line in lines)


SIEGES: tuple[Siege, ...] = (
    Siege(
        SHARED, "descriptors in flight", everywhere(BOUNDED),
        taker(
            "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
            "ours.setblocking(False)",
            "kept.extend((ours, theirs))",
            "try:",
            "    while len(kept) < 1000:",
            "        socket.send_fds(ours, [b'x'], [0] * 253)",
            "        kept.append(1)",
            "except OSError:",
            "    return len(kept)",
        ),
    ),
    Siege(
        SHARED, "inotify instances", (BOUNDED, BOUNDED, BOUNDED, BOUNDED, POSSIBLE),
        taker("while libc.inotify_init() >= 0:", "    kept.append(1)", "return len(kept)"),
        "import ctypes\n"
        "made = ctypes.CDLL(None).inotify_init()\n"
        "return made >= 0 and os.close(made) is None",
    ),
    Siege(
        SHARED, "pages of pipes", (BOUNDED, WITH_IDS, BOUNDED, BOUNDED, POSSIBLE),
        taker(
            "import fcntl",
            "while len(kept) < 450:",
            "    kept.append(os.pipe())",
            "    try:",
            "        fcntl.fcntl(kept[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)",
            "    except OSError:",
            "        continue",
            "return len(kept)",
        ),
        "import fcntl\n"
        "ends = os.pipe()\n"
        "size = fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ)\n"
        "return size == 1 << 16 and [*map(os.close, ends)] == [None, None]",
    ),
    Siege(
        SHARED, "watches of epoll", (BOUNDED, WITH_IDS, BOUNDED, BOUNDED, POSSIBLE),
        WATCHES + taker("return hoards(200, time.monotonic() + 20)"),
        "one, ends = select.epoll(), os.pipe()\n"
        "one.register(ends[0])\n"
        "return [one.close(), *map(os.close, ends)] == [None] * 3",
        spec={"memory_size_mb": 3008, "timeout_s": 60.0},  # a cgroup counts the kernel's memory, too
    ),
    Siege(
        SHARED, "every processor, by many processes", (BOUNDED, BOUNDED, BOUNDED, UNTRIED, UNTRIED),
        taker(
            "ends_at = time.monotonic() + 3",
            "for _ in range(40):",
            "    if os.fork() == 0:",
            "        while time.monotonic() < ends_at:",
            "            pass",
            "        os._exit(0)",
            "while time.monotonic() < ends_at:",
            "    pass",
            "for _ in range(40):",
            "    os.wait()",
        ),
        spec={"memory_size_mb": 1769},
    ),
)  # fmt: skip
