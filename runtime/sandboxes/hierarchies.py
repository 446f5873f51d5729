"""Finds the cgroups that this process may make groups below, and those of others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from millstream.runtime.sandboxes.cgroups import (
    OVERHEAD_BYTES,
    Groups,
    Watch,
    make_ready,
    pass_on,
)
from millstream.runtime.sandboxes.controllers import (
    Controller,
    Cpu,
    Freezing,
    Memory,
    Processes,
    Size,
    processes_of_all,
)
from millstream.runtime.sandboxes.freezers import removed

PREFIX = "millstream-"


def find_groups(proc: Path = Path("/proc"), *, quota: bool = False) -> Groups | None:
    """Folders for groups, made below this process's own cgroups. None: the host does not allow any.

    `quota`: processors are limited, too.
    """
    all_processes = processes_of_all(proc)
    makers: dict[str, Callable[[int], Controller]] = {
        "memory": Memory,
        "pids": lambda version: Processes(version, all_processes),
        "cpu": lambda version: Cpu(version, quota=quota),
        "freezer": Freezing,
    }
    own_name = f"{PREFIX}{os.getpid()}"
    places: list[tuple[Path, Controller]] = []
    swept: set[Path] = set()
    for name, maker in makers.items():
        used = {ours.parent for ours, _ in places}  # a process has one group of version 2 for all controllers
        for folder, version in sorted(_candidates(proc, name), key=lambda found: found[0] not in used):
            if folder not in swept:
                swept.add(folder)
                _remove_stale(folder, proc)
            controller = maker(version)
            ours = folder / own_name
            if _works(ours, controller):
                places.append((ours, controller))
                break
    return Groups(places) if places else None


def watch(pid: int, proc: Path = Path("/proc")) -> Watch | None:
    """The cgroup that limits the memory of a process. None: it cannot be seen."""
    for folder, version in _candidates(proc, "memory", str(pid)):
        events = folder / Memory(version).events
        if events.exists():
            return Watch(events)
    return None


def _works(ours: Path, controller: Controller) -> bool:
    """Try the controller in a folder of this process's own, which is made. True: it can be used."""
    try:
        if controller.version == 2:
            pass_on(ours.parent, controller)
        make_ready(ours, controller)
        (ours / "trial").mkdir(exist_ok=True)
        controller.hold(ours / "trial", Size(OVERHEAD_BYTES, 1, 128))
    except OSError:
        return False
    finally:
        removed(ours / "trial")
        removed(ours)
    return True


def _candidates(proc: Path, controller: str, pid: str = "self") -> Iterator[tuple[Path, int]]:
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
            if kind == "cgroup" and controller in options.split(",") and controller in controllers.split(","):
                yield folder, 1
            elif kind == "cgroup2" and number == "0":
                yield folder, 2
                if folder != Path(place):
                    yield folder.parent, 2


def _remove_stale(folder: Path, proc: Path) -> None:
    """Remove the groups that a killed daemon left. Its environments were killed with it."""
    for left in folder.glob(f"{PREFIX}*"):
        pid = left.name.removeprefix(PREFIX)
        if pid == str(os.getpid()) or not (proc / pid).exists():
            with contextlib.suppress(OSError):  # of another user, or gone meanwhile
                removed(left)
