"""Who is at the other end of a Unix socket, and how to reach a socket whose path is too long."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SOCKET_PATH_BYTES = 100
"""Longest path of a Unix socket that every system takes."""

LINUX = sys.platform.startswith("linux")
ROOT = 0
CREDENTIALS = struct.Struct("3i")  # ucred: process, user, group
LOCAL_PEERCRED = 0x001
XUCRED = struct.Struct("2I")  # the first of struct xucred, of macOS and the BSDs: version, user


class Socket(Protocol):
    """The part of a socket that is needed: asyncio's has no more."""

    def getsockopt(self, level: int, name: int, size_bytes: int, /) -> bytes: ...


def peer_uid(sock: Socket) -> int:
    """The user who connected, or who listened. Raises OSError."""
    if LINUX:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        return int(CREDENTIALS.unpack(found)[1])
    return int(XUCRED.unpack_from(sock.getsockopt(0, LOCAL_PEERCRED, 128))[1])


@contextmanager
def reachable(path: Path) -> Iterator[Path]:
    """A path of the socket that is short enough, while the context lasts.

    A longer one is reached by a descriptor of its folder, and so has the folder's protection. Where there is
    no /proc, it is in a folder that is this user's alone. Raises OSError.
    """
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        yield path
        return
    if not LINUX:
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        yield private_folder(Path(tempfile.gettempdir()) / f"millstream-{os.geteuid()}") / f"{name}.sock"
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def private_folder(folder: Path) -> Path:
    """The folder, made if it is not there. Raises PermissionError: it is a link, another's, or open."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not private:
            wanted = f"{folder}: wanted a folder of this user alone (mode 0700)"
            raise PermissionError(wanted) from None
    return folder
