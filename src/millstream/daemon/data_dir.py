"""The data directory: one daemon at a time, and where it answers."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.contract.errors import MillstreamError, StateUnavailable

SOCKET_PATH_BYTES = 100
"""Longest path of a Unix socket that every system takes."""


class DataDirInUse(MillstreamError):
    """Another daemon runs on the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process, made if it is not there; freed at exit, however it comes.

    Raises:
        DataDirInUse: another process holds it.
        StateUnavailable: it cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    """Where the daemon answers the command line; elsewhere if the path would be too long."""
    path = data_dir.resolve() / "control.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}-{name}.sock"
