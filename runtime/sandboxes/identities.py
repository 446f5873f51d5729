"""Who the functions of the bwrap driver are to the host: each a user of its own, wherever the daemon may."""

from __future__ import annotations

import os

from millstream.contract.functions import FunctionSpec
from millstream.runtime.sandboxes.launching import Identity
from millstream.runtime.sandboxes.subordinate import ETC, FILES, Missing, Subordinates, find_subordinates
from millstream.runtime.sandboxes.users import HostUsers, host_users

WAY_OUT = (
    "let newuidmap and newgidmap work (apt install --reinstall uidmap; no NoNewPrivileges), and all users "
    "read millstream and its interpreter"
)


class Identities:
    """Gives each function one: a user of the host, of root's choice or an ordinary user's subordinate ids."""

    def __init__(self) -> None:
        """Raises SandboxUnavailable: the environment names users that are none."""
        self._found: Subordinates | Missing | None = None  # None: the daemon is root
        self._users: HostUsers | None = None  # None: all functions are the daemon's own user
        if os.geteuid() == 0:
            self._users = host_users()
            return
        self._found = find_subordinates()
        if isinstance(self._found, Subordinates):
            self._users = HostUsers(self._found.uids, str(ETC / FILES[0]))

    @property
    def mapped(self) -> bool:
        """True while subordinate ids are used."""
        return isinstance(self._found, Subordinates)

    @property
    def missing(self) -> Missing | None:
        """Says why functions share the daemon's user. None: they do not."""
        return self._found if isinstance(self._found, Missing) else None

    def give_up(self, why: str) -> None:
        """Use no subordinate ids, for they do not work."""
        self._found, self._users = Missing(why, WAY_OUT), None

    def of(self, function: FunctionSpec | None) -> Identity:
        """Find that of a function; with None, of a trial."""
        if self._users is None:
            return Identity()
        if not isinstance(self._found, Subordinates):
            return Identity(self._users.first if function is None else self._users.of(function))
        if function is not None and function.file_system is not None:
            return Identity()  # its files are to be the user's own
        uid = self._users.first if function is None else self._users.of(function)
        return Identity(self._found.number(uid), self._found.maps(os.getuid(), os.getgid()))

    def __str__(self) -> str:
        """Who functions are, to follow who the daemon is."""
        match self._found:
            case None:
                return "which is given up before a sandbox is made: each function is a user of its own"
            case Subordinates(uids):
                own = f"one of its subordinate ids {uids.start}-{uids.stop - 1}"
                return f"each function is a user of its own, {own}"
            case Missing(why, way_out):
                shared = "all functions are this user, too, and share what is counted by user"
                return f"{shared}: {why}; way out: {way_out}"
