"""Landlock: takes from a process what its user may do to files, and to other processes of that user.

A kernel without it (before Linux 5.13), and other systems, do nothing. Standard library only. Source: Linux,
"Landlock: unprivileged access control", and include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""System calls; the same on each architecture."""

VERSION = 1
PR_SET_NO_NEW_PRIVS = 38
FILES, NETWORK, SCOPES = 1, 4, 6
"""Versions that brought rights of files, rights of TCP, and scopes."""


def version() -> int:
    """Return the version that this kernel has. 0: none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(_call(CREATE_RULESET, None, 0, VERSION), 0)


def ruleset(known: int) -> bytes:
    """Return all that a kernel of this version can take; no rule gives any of it back."""
    bits = 13 + sum(known >= since for since in (2, 3, 5))  # REFER, TRUNCATE and IOCTL_DEV came later
    files = (1 << bits) - 1
    tcp = 0b11 if known >= NETWORK else 0
    scopes = 0b11 if known >= SCOPES else 0  # abstract sockets, and signals
    words = (files, tcp, scopes)[: 1 + (known >= NETWORK) + (known >= SCOPES)]
    return struct.pack(f"{len(words)}Q", *words)


def give_up_rights() -> None:
    """Give up all of them, for this process and what comes from it.

    Raises:
        OSError: the kernel has Landlock, and refuses.
    """
    known = version()
    if known < FILES:
        return
    wanted = ruleset(known)
    descriptor = _done(_call(CREATE_RULESET, wanted, len(wanted), 0))
    try:
        _done(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _done(_call(RESTRICT_SELF, descriptor, 0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: bytes | int | None) -> int:
    """The answer of a system call; below 0: it failed."""
    answered: int = _libc().syscall(number, *arguments)
    return answered


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(answered: int) -> int:
    """Raise OSError for an answer that is below 0."""
    if answered < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return answered
