"""Deployed folders: kept while they are used, removed when they are not."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from millstream.contract.errors import StateUnavailable
from millstream.functions.retention import hold, remove_unused
from millstream.functions.snapshots import staging


def folders(store: Path, *names: str) -> None:
    """Folders that were used one after the other."""
    for age, name in enumerate(reversed(names)):
        (store / name).mkdir(parents=True)
        (store / name / "file").write_bytes(bytes(100_000))
        os.utime(store / name, (1_000_000 - age, 1_000_000 - age))


def left(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


def test_the_folders_that_were_used_last_are_kept(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", "c", "d")
    removed = remove_unused(tmp_path, 2)
    assert left(tmp_path) == ["c", "d"]
    assert (removed.folders, removed.in_use) == (2, 0)
    assert removed.size_bytes >= 200_000


def test_what_is_used_is_kept_beside_them_and_used_again_by_that(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", "c", "d")
    descriptor = hold(tmp_path / "a")
    assert descriptor is not None
    assert remove_unused(tmp_path, 1).folders == 2
    assert left(tmp_path) == ["a", "d"]
    os.close(descriptor)
    assert remove_unused(tmp_path, 1).folders == 1
    assert left(tmp_path) == ["a"]  # it was used after the other one


HOLDER = """
import sys
from pathlib import Path
from millstream.functions.retention import hold
assert hold(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_is_kept_until_that_process_is_killed(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        removed = remove_unused(tmp_path, 0)
        assert (removed.folders, removed.in_use) == (1, 1)
        assert left(tmp_path) == ["a"]
        process.kill()
    assert remove_unused(tmp_path, 0).folders == 1
    assert left(tmp_path) == []


def test_what_is_gone_cannot_be_held(tmp_path: Path) -> None:
    assert hold(tmp_path / "none") is None


def test_what_is_being_made_is_kept_and_what_was_left_half_made_is_not(tmp_path: Path) -> None:
    (tmp_path / ".new-left").mkdir()
    (tmp_path / ".old-left").mkdir()
    with staging(tmp_path) as made:
        remove_unused(tmp_path, 0)
        assert left(tmp_path) == [made.name]
    assert left(tmp_path) == []


def test_files_that_another_folder_shares_are_not_counted_as_freed(tmp_path: Path) -> None:
    folders(tmp_path / "layers", "a")
    folders(tmp_path / "opt", "b")
    (tmp_path / "opt" / "b" / "file").unlink()
    (tmp_path / "opt" / "b" / "file").hardlink_to(tmp_path / "layers" / "a" / "file")
    assert remove_unused(tmp_path / "opt", 0).size_bytes < 50_000
    assert remove_unused(tmp_path / "layers", 0).size_bytes >= 100_000


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert remove_unused(tmp_path / "none", 0).folders == 0


def test_a_store_that_is_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    with pytest.raises(StateUnavailable, match="wanted a directory that can be written"):
        remove_unused(tmp_path / "store", 0)


def test_a_hold_lasts_as_long_as_its_descriptor(tmp_path: Path) -> None:
    folders(tmp_path, "a")
    with ExitStack() as held:
        for _ in range(2):
            descriptor = hold(tmp_path / "a")
            assert descriptor is not None
            held.callback(os.close, descriptor)
        assert remove_unused(tmp_path, 0).in_use == 1
    assert remove_unused(tmp_path, 0).folders == 1
