"""The processes of one environment of the bwrap driver: a pid namespace, and a cgroup where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from millstream.runtime.sandboxes.cgroups import Share


class Namespace:
    """The processes of an environment: its first one is their pid namespace's, and takes all with it."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._pid = _pid_of(pidfd)
        self.share: Share | None = None  # of the function's cgroup; given back when they are gone
        self._ended = asyncio.Event()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        asyncio.get_running_loop().add_reader(self._pidfd, self._end)

    async def gone(self) -> None:
        await self._ended.wait()  # the kernel ends what SIGKILL was sent to

    def out_of_memory(self) -> bool:
        return self.share is not None and self.share.out_of_memory()

    def peak_kb(self) -> int:
        return status_kb(self._pid, "VmHWM")

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self.share is not None:
            self.share.close()
        self._ended.set()


def _pid_of(pidfd: int) -> int:
    """The process of a pidfd. -1: it is gone, or no descriptor is left to find out."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


def status_kb(pid: int, name: str) -> int:
    """A size of /proc/PID/status in KB. 0: the process is gone."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
