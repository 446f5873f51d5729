"""How much memory this host has for environments, and whether it runs short of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MB = 1024 * 1024

SHARE = 0.75
"""What of the memory that is free at start, or of a container's, environments may take."""

SHORT = 0.05
"""The host runs short where less of its memory than this is available …"""

STALLED_PERCENT = 10.0
"""… or where all tasks wait for memory for this much of ten seconds."""


def default_budget_mb(root: Path = Path("/")) -> int | None:
    """MB for all environments together. None: this system does not say what it has."""
    info = _meminfo(root)
    available = info.get("MemAvailable")
    if available is None:
        return None
    return math.floor(min([available * 1024, *_limits(root)]) * SHARE / MB)


def runs_short(root: Path = Path("/")) -> bool:
    """True if the host should be relieved of memory now. Reads two small files of the kernel's."""
    info = _meminfo(root)
    if info and info.get("MemAvailable", 0) < SHORT * info.get("MemTotal", 0):
        return True
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/pressure/memory").read_text(encoding="ascii").splitlines():
            if line.startswith("full avg10="):
                return float(line.split()[1].removeprefix("avg10=")) >= STALLED_PERCENT
    return False


def _meminfo(root: Path) -> dict[str, int]:
    """Sizes in KB. Source: Linux, "The /proc Filesystem", meminfo."""
    found: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines()[:8]:
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.removesuffix(" kB"))
    return found


def _limits(root: Path) -> Iterator[int]:
    """Limits in bytes of this process's cgroups, and of those that they are in; none says "max"."""
    mount = root / "sys/fs/cgroup"
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        for number, controllers, path in (line.split(":", 2) for line in lines):
            if "memory" in controllers.split(","):
                base, name = mount / "memory", "memory.limit_in_bytes"
            elif number == "0":
                base, name = mount, "memory.max"
            else:
                continue
            below = Path(path.lstrip("/"))
            # A container may see the path that its host has, below a mount that begins at its own group.
            for folder in (base / below, *(base / parent for parent in below.parents)):
                with suppress(OSError, ValueError):
                    yield int((folder / name).read_text(encoding="ascii"))
