"""Memory limits of whole functions, where the host lets this process make cgroups.

Resource limits count per process, and not at all what processes share (shared mappings, memfd); a
cgroup counts every page, those of /tmp included. There is one for each function, with a limit that
follows the number of its environments: what one takes too much, it takes from the same function.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MB = 1024 * 1024

OVERHEAD_BYTES = 64 * MB
"""Above a function's memory and /tmp: copies of the interpreter's pages, page tables, sockets."""

TEMPLATE_BYTES = 128 * MB
"""A template: bwrap, an interpreter and what it has loaded."""

PREFIX = "millstream-"


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of one version's files. Source: Linux, "Memory Resource Controller" and "Control Group v2"."""

    limit: str
    swap: str
    swap_counts_memory: bool
    events: str


V1 = _Names("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", True, "memory.oom_control")
V2 = _Names("memory.max", "memory.swap.max", False, "memory.events")


class MemoryGroup:
    """The cgroup of one function: its template, and every environment that is forked from it."""

    def __init__(self, folder: Path, names: _Names) -> None:
        self._folder = folder
        self._names = names
        self._limit_bytes = 0

    @property
    def entrance(self) -> str:
        """The file that takes whoever writes "0" to it into the group, with all that it will fork.

        Moving a process that runs takes the kernel some 10 ms; a template moves itself as it starts.
        """
        return str(self._folder / "cgroup.procs")

    def grow(self, by_bytes: int) -> None:
        """Raise the limit, or lower it. Raises OSError where the kernel refuses."""
        self._limit_bytes += by_bytes
        self._limit_swap()  # that of version 1 must never be below the other, so it goes up first
        _write(self._folder / self._names.limit, self._limit_bytes)
        self._limit_swap()

    def _limit_swap(self) -> None:
        with contextlib.suppress(OSError):  # a kernel without accounting of swap
            swap = self._limit_bytes if self._names.swap_counts_memory else 0
            _write(self._folder / self._names.swap, swap)

    def kills(self) -> int:
        """How many of its processes the kernel has ended for their memory."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self._folder / self._names.events).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
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


class Share:
    """What one environment adds to the limit of its function's cgroup, for as long as it lives."""

    def __init__(self, group: MemoryGroup, memory_mb: int, tmp_mb: int) -> None:
        """Raises OSError where the kernel refuses."""
        self._group = group
        self._size_bytes = (memory_mb + tmp_mb) * MB + OVERHEAD_BYTES
        self._kills = group.kills()
        group.grow(self._size_bytes)

    def out_of_memory(self) -> bool:
        """True if the kernel ended a process of the function since this was last asked."""
        before, self._kills = self._kills, self._group.kills()
        return self._kills > before

    def close(self) -> None:
        """The environment is gone."""
        with contextlib.suppress(OSError):  # what is still charged is above it
            self._group.grow(-self._size_bytes)


class Watch:
    """The cgroup that another gave one environment: read, never written."""

    def __init__(self, group: MemoryGroup) -> None:
        self._group = group
        self._kills = group.kills()

    def out_of_memory(self) -> bool:
        """True if the kernel ended a process of the environment since this was last asked."""
        before, self._kills = self._kills, self._group.kills()
        return self._kills > before

    def close(self) -> None:
        """The environment is gone."""


class MemoryGroups:
    """The folder of this process's groups."""

    def __init__(self, folder: Path, names: _Names) -> None:
        self._folder = folder
        self._names = names
        self._left: list[MemoryGroup] = []

    @property
    def version(self) -> str:
        """v1 or v2."""
        return "v2" if self._names is V2 else "v1"

    def make(self, function: str) -> MemoryGroup:
        """A group with room for a template alone.

        Raises:
            OSError: the kernel refuses.
        """
        self._left = [group for group in self._left if not group.remove()]
        self._folder.mkdir(exist_ok=True)  # another sandbox of this process may have removed it
        folder = self._folder / f"{function}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        group = MemoryGroup(folder, self._names)
        try:
            group.grow(TEMPLATE_BYTES)
        except OSError:
            self.drop(group)
            raise
        return group

    def drop(self, group: MemoryGroup) -> None:
        """Remove a group, later if its processes are not yet gone."""
        if not group.remove():
            self._left.append(group)

    def close(self) -> bool:
        """Remove all of it. False: not all is empty yet; at the latest the next daemon's start removes it."""
        self._left = [group for group in self._left if not group.remove()]
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        return not self._left


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
            trial.grow(OVERHEAD_BYTES)
            trial.remove()
        except OSError:
            for path in (ours / "trial", ours):
                with contextlib.suppress(OSError):
                    path.rmdir()
            continue
        return MemoryGroups(ours, names)
    return None


def watch(pid: int, proc: Path = Path("/proc")) -> Watch | None:
    """The cgroup that limits the memory of a process. None: it cannot be seen."""
    for folder, names in _candidates(proc, str(pid)):
        if (folder / names.events).exists():
            return Watch(MemoryGroup(folder, names))
    return None


def _candidates(proc: Path, pid: str = "self") -> Iterator[tuple[Path, _Names]]:
    """A process's own cgroup of version 1; of version 2 also the one above, for its own holds processes."""
    try:
        mounts = (proc / "self/mountinfo").read_text().splitlines()
        own = [line.split(":", 2) for line in (proc / pid / "cgroup").read_text().splitlines()]
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
        pid = left.name.removeprefix(PREFIX)
        if pid == str(os.getpid()) or not (proc / pid).exists():
            for path in (*(path for path in left.iterdir() if path.is_dir()), left):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _write(path: Path, value: object) -> None:
    path.write_text(str(value), encoding="ascii")
