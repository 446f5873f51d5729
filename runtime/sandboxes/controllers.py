"""Limits that cgroups hold a function to, in the files of both versions.

Source: Linux, "Memory Resource Controller", "Process Number Controller", "CFS Scheduler", "Control Group v2".
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MB = 1024 * 1024

CPU_MB = 1769
"""Memory for which a function has one processor. Source: AWS, "Configure Lambda function memory"."""

SHARES, WEIGHT, MOST_WEIGHT = 1024, 100, 10000
"""The weight of one processor, by the names of both versions."""

FREEZE = "cgroup.freeze"
"""Every group of version 2 has it, but for the root. Since Linux 5.2."""

PERIOD_US, LEAST_QUOTA_US = 100_000, 1000
SOCKETS_BYTES, SOCKETS_PART = 64 * MB, 16
"""Bytes that sockets may hold: a part of the memory, beside which version 1 counts them, or so many."""


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of each resource that environments may take."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_mb: int = 0  # of memory, by which processors are given

    def __add__(self, other: Size) -> Size:
        memory_bytes = self.memory_bytes + other.memory_bytes
        return Size(memory_bytes, self.processes + other.processes, self.cpu_mb + other.cpu_mb)

    def __neg__(self) -> Size:
        return Size(-self.memory_bytes, -self.processes, -self.cpu_mb)


class Controller(Protocol):
    """One kind of resource."""

    @property
    def name(self) -> str:
        """By which the kernel knows it."""

    @property
    def version(self) -> int:
        """The version of its files: 1 or 2."""

    def hold(self, folder: Path, size: Size) -> None:
        """Hold a function to it. Raises OSError where the kernel refuses."""

    def hold_all(self, folder: Path) -> None:
        """Hold all functions together to what the host can bear. Raises OSError."""


class Memory:
    """Every page counts, those of /tmp, of shared memory and of sockets included."""

    name = "memory"

    def __init__(self, version: int) -> None:
        self.version = version
        v1 = version == 1
        self._limit = "memory.limit_in_bytes" if v1 else "memory.max"
        self._swap = "memory.memsw.limit_in_bytes" if v1 else "memory.swap.max"
        self._sockets = "memory.kmem.tcp.limit_in_bytes" if v1 else ""
        self._swap_counts_memory = v1
        self.events = "memory.oom_control" if v1 else "memory.events"

    def hold(self, folder: Path, size: Size) -> None:
        if self._swap_counts_memory:  # it must never be below the other, so it goes up first
            self._limit_swap(folder, size)
        write(folder / self._limit, size.memory_bytes)
        self._limit_swap(folder, size)
        if self._sockets:
            with contextlib.suppress(OSError):  # a kernel that does not count it
                write(folder / self._sockets, max(SOCKETS_BYTES, size.memory_bytes // SOCKETS_PART))

    def hold_all(self, folder: Path) -> None:
        """The pool keeps to a budget of its own."""

    def _limit_swap(self, folder: Path, size: Size) -> None:
        with contextlib.suppress(OSError):  # a kernel without accounting of swap
            write(folder / self._swap, size.memory_bytes if self._swap_counts_memory else 0)


class Processes:
    """The number of processes and threads: the host has so many ids, whoever takes them."""

    name = "pids"

    def __init__(self, version: int, all_processes: int) -> None:
        self.version = version
        self._all = all_processes

    def hold(self, folder: Path, size: Size) -> None:
        """No function has all that all of them may have."""
        write(folder / "pids.max", min(size.processes, self._all // 2))

    def hold_all(self, folder: Path) -> None:
        write(folder / "pids.max", self._all)


class Cpu:
    """Processors by memory size: as a share where they are short, as a limit where that is wanted."""

    name = "cpu"

    def __init__(self, version: int, *, quota: bool) -> None:
        self.version = version
        self._quota = quota

    def hold(self, folder: Path, size: Size) -> None:
        self._weigh(folder, size.cpu_mb / CPU_MB)
        quota_us = max(int(PERIOD_US * size.cpu_mb / CPU_MB), LEAST_QUOTA_US)
        if self._quota and self.version == 1:
            write(folder / "cpu.cfs_period_us", PERIOD_US)
            write(folder / "cpu.cfs_quota_us", quota_us)
        elif self._quota:
            write(folder / "cpu.max", f"{quota_us} {PERIOD_US}")

    def hold_all(self, folder: Path) -> None:
        """Together they weigh as much as one program on each processor, like the daemon itself."""
        self._weigh(folder, os.cpu_count() or 1)

    def _weigh(self, folder: Path, processors: float) -> None:
        if self.version == 1:
            write(folder / "cpu.shares", max(int(SHARES * processors), 2))
        else:
            write(folder / "cpu.weight", min(max(int(WEIGHT * processors), 1), MOST_WEIGHT))


class Freezing:
    """Groups that the kernel keeps from running: as it counts nothing, each may freeze alone."""

    name = "freezer"

    def __init__(self, version: int) -> None:
        self.version = version

    def hold(self, folder: Path, size: Size) -> None:
        """Does nothing: what is frozen is not counted."""

    def hold_all(self, folder: Path) -> None:
        """Raises OSError where it is not there, or lets nothing end that is frozen, as in version 1."""
        if self.version == 1:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        write(folder / FREEZE, 0)


def processes_of_all(proc: Path) -> int:
    """Half of the processes and threads that this host can have."""
    found = [1 << 15]
    for name in ("pid_max", "threads-max"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int((proc / "sys/kernel" / name).read_text(encoding="ascii")))
    return min(found[1:] or found) // 2


def write(path: Path, value: object) -> None:
    """Set one of the kernel's files. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
