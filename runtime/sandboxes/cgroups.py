"""Limits of whole functions, where the host lets this process make cgroups.

Resource limits count per process, and not at all what processes share (shared mappings, memfd); a cgroup
counts all of it. There is one for each function, with limits that follow the number of its environments: what
one takes too much, it takes from the same function. Environments have groups of their own for nothing but
freezing: see `freezers.py`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from pathlib import Path

from millstream.runtime.sandboxes.controllers import MB, Controller, Freezing, Memory, Size, write
from millstream.runtime.sandboxes.freezers import Freezers, removed

OVERHEAD_BYTES = 64 * MB
"""Above a function's memory and /tmp: copies of the interpreter's pages, page tables, sockets."""

PROCESSES = 1024
"""And threads, of an environment. Source: AWS, "Lambda quotas"."""

TEMPLATE = Size(128 * MB, 64)
"""bwrap, an interpreter and what it has loaded; its processes, and first ones of environments."""

Places = Sequence[tuple[Path, Controller]]
"""A folder for each controller; of version 2 the same one."""


class Group:
    """The cgroups of one function: of its template, and every environment that is forked from it."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._size = Size()
        freezing = [folder for folder, controller in places if isinstance(controller, Freezing)]
        self.freezers = Freezers(freezing[0]) if freezing else None

    @property
    def entrances(self) -> list[str]:
        """The files that take whoever writes "0" to them into the group, with all that it will fork.

        Moving a process that runs takes the kernel some 10 ms; a template moves itself as it starts.
        """
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def grow(self, by: Size) -> None:
        """Raise the limits, or lower them. Raises OSError where the kernel refuses."""
        self._size += by
        for folder, controller in self._places:
            controller.hold(folder, self._size)

    @property
    def holds_memory(self) -> bool:
        """True if it limits memory."""
        return any(isinstance(controller, Memory) for _, controller in self._places)

    def kills(self) -> int:
        """How many of its processes the kernel has ended for their memory."""
        for folder, controller in self._places:
            if isinstance(controller, Memory):
                return kills_of(folder / controller.events)
        return 0

    def remove(self) -> bool:
        """True if it is gone; False while processes are left in it."""
        gone = [removed(folder) for folder in self._folders]
        return all(gone)

    @property
    def _folders(self) -> list[Path]:
        return list(dict.fromkeys(folder for folder, _ in self._places))


class Share:
    """The part of its function's limits that one environment adds, for as long as it lives."""

    def __init__(self, group: Group, memory_mb: int, tmp_mb: int) -> None:
        """Raises OSError where the kernel refuses."""
        self._group = group
        self._size = Size((memory_mb + tmp_mb) * MB + OVERHEAD_BYTES, PROCESSES, memory_mb)
        self._kills = group.kills()
        group.grow(self._size)

    def out_of_memory(self) -> bool:
        """True if the kernel ended a process of the function since this was last asked."""
        before, self._kills = self._kills, self._group.kills()
        return self._kills > before

    def close(self) -> None:
        """The environment is gone."""
        with contextlib.suppress(OSError):  # what is still charged is above it
            self._group.grow(-self._size)


class Watch:
    """The cgroup that another gave one environment: read, never written."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._kills = kills_of(events)

    def out_of_memory(self) -> bool:
        """True if the kernel ended a process of the environment since this was last asked."""
        before, self._kills = self._kills, kills_of(self._events)
        return self._kills > before

    def close(self) -> None:
        """The environment is gone."""


class Groups:
    """The folders of this process's groups."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._left: list[Group] = []

    @property
    def controllers(self) -> list[str]:
        """Names of what functions are held to, and of what freezes environments."""
        return [controller.name for _, controller in self._places]

    @property
    def version(self) -> str:
        """v1 or v2; where both are used for limits, the newer one."""
        limits = [controller for _, controller in self._places if not isinstance(controller, Freezing)]
        return f"v{max((controller.version for controller in limits), default=2)}"

    def make(self, function: str) -> Group:
        """A group with room for a template alone.

        Raises:
            OSError: the kernel refuses.
        """
        self._left = [group for group in self._left if not group.remove()]
        name = f"{function}-{uuid.uuid4().hex[:8]}"
        group = Group([(folder / name, controller) for folder, controller in self._places])
        made = False
        try:
            # Another sandbox of this process may have removed them.
            missing = {folder for folder, _ in self._places if not folder.exists()}
            for folder, controller in self._places:
                if folder in missing:
                    make_ready(folder, controller)
                (folder / name).mkdir(exist_ok=True)
            group.grow(TEMPLATE)
            made = True
        finally:
            if not made:
                self.drop(group)
        return group

    def drop(self, group: Group) -> None:
        """Remove a group, later if its processes are not yet gone."""
        if not group.remove():
            self._left.append(group)

    def close(self) -> bool:
        """Remove all of it. False: not all is empty yet; at the latest the next daemon's start removes it."""
        self._left = [group for group in self._left if not group.remove()]
        for folder, _ in self._places:
            removed(folder)
        return not self._left


def make_ready(folder: Path, controller: Controller) -> None:
    """Make the folder of all groups. Raises OSError."""
    folder.mkdir(exist_ok=True)
    if controller.version == 2:
        pass_on(folder, controller)
    controller.hold_all(folder)


def pass_on(folder: Path, controller: Controller) -> None:
    """Let groups below it have the controller, in version 2. Raises OSError."""
    if isinstance(controller, Freezing):  # every group has that
        return
    if controller.name not in (folder / "cgroup.subtree_control").read_text().split():
        write(folder / "cgroup.subtree_control", f"+{controller.name}")


def kills_of(events: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in events.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
