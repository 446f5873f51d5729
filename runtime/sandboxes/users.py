"""The users of this host that functions are, where the daemon may choose: each has its own.

The kernel counts much by user: descriptors in flight, watches of epoll and inotify, queued signals, pages of
pipes. Functions of one user can take all of it from each other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec

VARIABLE = "MILLSTREAM_FUNCTION_USERS"
IDS = range(62993, 63993)
"""No accounts, so they own nothing. The first is that of the functions that write to a folder."""

LEAST, MOST = 1, (1 << 32) - 2

logger = logging.getLogger(__name__)


class HostUsers:
    """Gives each function a user for as long as this lives."""

    def __init__(self, ids: range, setting: str = VARIABLE) -> None:
        """`setting` says where more can be had."""
        self._ids = ids
        self._setting = setting
        self._by_function: dict[str, int] = {}
        self._taken = {ids[0]}
        self._said = False

    @property
    def first(self) -> int:
        """The user of trials, and of functions that write to a folder that none of these users owns."""
        return self._ids[0]

    def of(self, function: FunctionSpec) -> int:
        """The number of its user and of its group."""
        if function.file_system is not None:
            return self._owner(function.file_system.folder)
        if function.name not in self._by_function:
            self._by_function[function.name] = self._take(function.name)
        return self._by_function[function.name]

    def _take(self, name: str) -> int:
        free = next((each for each in self._ids if each not in self._taken), None)
        if free is not None:
            self._taken.add(free)
            return free
        if not self._said:
            self._said = True
            extra = {"function": name, "users": f"{self._ids[0]}-{self._ids[-1]}", "setting": self._setting}
            logger.warning("no user of the host is left, functions share the last one", extra=extra)
        return self._ids[-1]

    def _owner(self, folder: Path) -> int:
        """Files outlive the daemon, and so must their user: the folder's owner, if it is one of these."""
        with contextlib.suppress(OSError):
            owner = folder.stat().st_uid
            if owner in self._ids:
                self._taken.add(owner)
                return owner
        return self.first


def host_users(environ: Mapping[str, str] = os.environ) -> HostUsers:
    """Make users of the ids that the environment names as `FIRST-LAST`, or of IDS.

    Raises:
        SandboxUnavailable: it names something else.
    """
    text = environ.get(VARIABLE, "")
    if not text:
        return HostUsers(IDS)
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", text)
    if found is None or not LEAST <= int(found[1]) <= int(found[2]) <= MOST:
        wanted = f"wanted FIRST-LAST, ids of users from {LEAST} up, such as {IDS[0]}-{IDS[-1]}"
        raise SandboxUnavailable(f"{VARIABLE}: {wanted}; found {text!r}")
    return HostUsers(range(int(found[1]), int(found[2]) + 1))
