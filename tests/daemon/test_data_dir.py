"""The data directory is its user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from millstream.daemon.data_dir import locked

FOLDERS = ("logs", "code")
FILES = {"logs/f.log": 0o644, "logs/f.log.1": 0o666, "state.db": 0o644, "daemon-id": 0o644}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make(directory: Path, *more: str) -> None:
    """A directory as an older daemon, or an administrator, has left it."""
    directory.mkdir()
    for name in FOLDERS:
        (directory / name).mkdir()
        (directory / name).chmod(0o755)
    for name, bits in FILES.items():
        (directory / name).write_text("what customers sent")
        (directory / name).chmod(bits)
    for name in more:
        (directory / name).write_text("another's")
        (directory / name).chmod(0o644)
    directory.chmod(0o755)


def test_what_others_could_read_is_closed_to_them_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "data"
    make(directory)
    for _ in range(2):
        with locked(directory):
            for path in (directory, *directory.rglob("*")):
                assert mode(path) & 0o077 == 0, path
    assert (mode(directory), mode(directory / "code"), mode(directory / "state.db")) == (0o700, 0o700, 0o600)
    assert [record.message for record in caplog.records] == [
        "data directory was open to other users, and is not any more"
    ]


def test_a_directory_that_holds_other_things_keeps_its_mode_and_what_is_ours_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "project"
    make(directory, "app.py")
    with locked(directory):
        assert (mode(directory), mode(directory / "app.py")) == (0o755, 0o644)
        assert (mode(directory / "logs"), mode(directory / "state.db")) == (0o700, 0o600)
    assert caplog.records[-1].message == "data directory is open to other users"


def test_a_new_directory_is_its_users_alone_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(tmp_path / "new"):
        assert mode(tmp_path / "new") == 0o700
    assert not caplog.records


def test_a_link_in_the_directory_is_not_followed(tmp_path: Path) -> None:
    directory, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    directory.mkdir(mode=0o700)
    (directory / "code").symlink_to(elsewhere)
    os.mkfifo(directory / "daemon-id.new", 0o666)  # nobody writes to it
    with locked(directory):
        assert mode(elsewhere) == 0o755
