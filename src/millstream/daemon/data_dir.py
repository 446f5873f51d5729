"""The data directory: one daemon at a time, and where it answers."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.contract.errors import MillstreamError, StateUnavailable

OTHERS = 0o077
STATE = ("state.db", "state.db-wal", "state.db-shm", "state.db-journal")
FOLDERS = ("logs", "code", "layers", "images", "sandboxes")
OWN = frozenset(("lock", "daemon-id", "daemon-id.new", "control.sock", *STATE, *FOLDERS))
"""Names that a daemon keeps in its data directory."""

logger = logging.getLogger(__name__)


class DataDirInUse(MillstreamError):
    """Another daemon runs on the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process, made if it is not there; freed at exit, however it comes.

    It is this user's alone: what other users of the host may read of it is closed to them, and said.

    Raises:
        DataDirInUse: another process holds it.
        StateUnavailable: it cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        close_to_others(data_dir)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        wanted = "wanted a directory that can be written"
        raise StateUnavailable(f"{data_dir}: {wanted}, found: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise DataDirInUse(f"{data_dir}: another daemon (process {owner}) runs on it") from None
        _write_owner(descriptor, data_dir)
        yield
    finally:
        os.close(descriptor)


def close_to_others(data_dir: Path) -> None:
    """Take from other users of the host the permissions on what is of this project's in the directory.

    On the directory too, if it holds nothing else. Raises OSError.
    """
    names = {entry.name for entry in os.scandir(data_dir)}
    places = [data_dir] if names <= OWN else []
    places += [data_dir / name for name in sorted(names & OWN)]
    if "logs" in names:
        places += [Path(entry.path) for entry in os.scandir(data_dir / "logs")]
    closed = [place for place in places if _close(place)]
    if closed:
        extra = {"places": len(closed), "first": str(closed[0])}
        logger.warning("data directory was open to other users, and is not any more", extra=extra)
    if data_dir.stat().st_mode & OTHERS:
        extra = {"directory": str(data_dir), "why": "it holds other things, too"}
        logger.warning("data directory is open to other users", extra=extra)


def _close(place: Path) -> bool:
    """False if there is nothing to be done, or it is not this user's."""
    found = place.lstat()
    ours = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
    if not ours or not found.st_mode & OTHERS or stat.S_ISSOCK(found.st_mode):
        return False
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~OTHERS)
    finally:
        os.close(descriptor)
    return True


def _write_owner(descriptor: int, data_dir: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise StateUnavailable(f"{data_dir}: wanted room to write, found: {error.strerror}") from error


def new_daemon_id(data_dir: Path) -> tuple[str | None, str]:
    """The id of the daemon that ran on the directory last, if one did, and another for this process.

    Ids name daemons in stores that several share. A process has its own, so that two that were started on
    copies of one directory are told apart; the last one's leases can be had at once, for it has ended, as
    the lock tells. Only for the process that holds the lock.

    Raises:
        StateUnavailable: it cannot be read or written.
    """
    path = data_dir / "daemon-id"
    before, own = daemon_id(data_dir), str(uuid.uuid4())
    try:
        _write_durably(path, f"{own}\n")
    except OSError as error:
        raise StateUnavailable(f"{path}: wanted room to write, found: {error.strerror}") from error
    return before, own


def daemon_id(data_dir: Path) -> str | None:
    """The id of the daemon that runs on the directory, or ran last. None: none did, or its id is lost.

    Raises:
        StateUnavailable: it cannot be read.
    """
    path = data_dir / "daemon-id"
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnavailable(f"{path}: wanted a file to read, found: {error.strerror}") from error


def _write_durably(path: Path, text: str) -> None:
    """Write a file so that a power cut leaves the old or the new one, whole."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def database(data_dir: Path) -> Path:
    """The state database."""
    return data_dir / "state.db"


def logs(data_dir: Path) -> Path:
    """The folder of the functions' logs."""
    return data_dir / "logs"


def control_socket(data_dir: Path) -> Path:
    """The socket at which the daemon answers; see `control.py` for paths that are too long."""
    return data_dir.resolve() / "control.sock"
