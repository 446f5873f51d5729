"""Memory limits of whole environments, where the host lets this process make cgroups.

Resource limits count per process and not at all what processes share (shared mappings, memfd); a
cgroup counts every page that an environment was the first to touch, its /tmp included.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MB = 1024 * 1024

OVERHEAD_BYTES = 64 * MB
"""Above a function's memory and /tmp: copies of the interpreter's pages, page tables, sockets."""

PREFIX = "millstream-"


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of one version's files. Source: Linux, "Memory Resource Controller" and "Control Group v2"."""

    limit: str
    swap: str
    swap_counts_memory: bool
    events: str
    peak: str


V1 = _Names(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", True, "memory.oom_control",
    "memory.max_usage_in_bytes",
)  # fmt: skip
V2 = _Names("memory.max", "memory.swap.max", False, "memory.events", "memory.peak")


class MemoryGroup:
    """The cgroup of one environment."""

    def __init__(self, folder: Path, names: _Names) -> None:
        self._folder = folder
        self._names = names

    def limit(self, limit_bytes: int) -> None:
        """Raises OSError where the kernel refuses."""
        _write(self._folder / self._names.limit, limit_bytes)
        with contextlib.suppress(OSError):  # a kernel without accounting of swap
            _write(self._folder / self._names.swap, limit_bytes if self._names.swap_counts_memory else 0)

    def add(self, pid: int) -> None:
        """Take a process in, and all that it will fork. Raises OSError where it is gone."""
        _write(self._folder / "cgroup.procs", pid)

    def out_of_memory(self) -> bool:
        """True if the kernel ended one of its processes for their memory."""
        with contextlib.suppress(OSError):
            for line in (self._folder / self._names.events).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def peak_kb(self) -> int:
        """Most memory that it held at once. 0: the kernel does not say."""
        with contextlib.suppress(OSError, ValueError):
            return int((self._folder / self._names.peak).read_text()) // 1024
        return 0

    def remove(self) -> bool:
        """True if it is gone; False while processes are left in it."""
        try:
            self._folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class MemoryGroups:
    """The folder of this process's groups."""

    def __init__(self, folder: Path, names: _Names) -> None:
        self._folder = folder
        self._names = names
        self._left: list[MemoryGroup] = []

    def make(self, stream: str, memory_mb: int, tmp_mb: int, pid: int) -> MemoryGroup:
        """A group with one process in it.

        Raises:
            OSError: the kernel refuses, or the process is gone.
        """
        self._left = [group for group in self._left if not group.remove()]
        folder = self._folder / stream
        folder.mkdir()
        group = MemoryGroup(folder, self._names)
        try:
            group.limit((memory_mb + tmp_mb) * MB + OVERHEAD_BYTES)
            group.add(pid)
        except OSError:
            self.drop(group)
            raise
        return group

    def drop(self, group: MemoryGroup) -> None:
        """Remove a group, later if its processes are not yet gone."""
        if not group.remove():
            self._left.append(group)

    def close(self) -> None:
        """Remove all of it; what is not empty yet, the next daemon's start removes."""
        for group in self._left:
            group.remove()
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def find_memory_groups(proc: Path = Path("/proc")) -> MemoryGroups | None:
    """A folder for groups, made below this process's own cgroup. None: the host does not allow it."""
    for folder, names in _candidates(proc):
        _remove_stale(folder, proc)
        ours = folder / f"{PREFIX}{os.getpid()}"
        try:
            if names is V2:
                _pass_on_memory(folder)
            ours.mkdir(exist_ok=True)
            if names is V2:
                _pass_on_memory(ours)
            trial = MemoryGroup(ours / "trial", names)
            (ours / "trial").mkdir()
            trial.limit(OVERHEAD_BYTES)
            trial.remove()
        except OSError:
            for path in (ours / "trial", ours):
                with contextlib.suppress(OSError):
                    path.rmdir()
            continue
        return MemoryGroups(ours, names)
    return None


def _candidates(proc: Path) -> Iterator[tuple[Path, _Names]]:
    """Our own cgroup of version 1; of version 2 also the one above, for ours holds processes."""
    try:
        mounts = (proc / "self/mountinfo").read_text().splitlines()
        own = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        for number, controllers, path in own:
            folder = Path(place, os.path.relpath(path, root)) if path.startswith(root) else Path(place)
            if kind == "cgroup" and "memory" in options.split(",") and "memory" in controllers.split(","):
                yield folder, V1
            elif kind == "cgroup2" and number == "0":
                yield folder, V2
                if folder != Path(place):
                    yield folder.parent, V2


def _pass_on_memory(folder: Path) -> None:
    if "memory" not in (folder / "cgroup.subtree_control").read_text().split():
        _write(folder / "cgroup.subtree_control", "+memory")


def _remove_stale(folder: Path, proc: Path) -> None:
    """What a daemon left that was killed. Its environments were killed with it."""
    for left in folder.glob(f"{PREFIX}*"):
        if not (proc / left.name.removeprefix(PREFIX)).exists():
            for path in (*(path for path in left.iterdir() if path.is_dir()), left):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _write(path: Path, value: object) -> None:
    path.write_text(str(value), encoding="ascii")
