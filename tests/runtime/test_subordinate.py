"""Finds the ids of the host that an ordinary user may give to its functions."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.runtime.sandboxes.subordinate import (
    MOST,
    PROGRAMS,
    Missing,
    Subordinates,
    find_subordinates,
    largest,
    unused,
)

NAME, NUMBER = "orders", "1007"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both programs, which is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in PROGRAMS:
        (folder / program).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def own_lines(etc: Path, uids: str, gids: str) -> Path:
    name = pwd.getpwuid(os.getuid()).pw_name
    etc.mkdir()
    (etc / "subuid").write_text(f"somebody:100000:65536\n{name}:{uids}\n")
    (etc / "subgid").write_text(f"somebody:100000:65536\n{os.getuid()}:{gids}\n")
    return etc


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", range(0)),
        ("orders:100000:65536\n", range(100000, 165536)),
        ("1007:100000:65536", range(100000, 165536)),
        ("  orders:100000:65536  \n", range(100000, 165536)),
        ("other:100000:65536\n1008:200000:65536\n", range(0)),
        ("orders:100000:20\n1007:300000:65536\norders:200000:30\n", range(300000, 365536)),
        ("orders:0:100\n", range(1, 100)),  # never root
        ("orders:4294967000:65536\n", range(0)),
        ("orders:4294967285:10\n", range(4294967285, 4294967295)),
        ("orders:100000:0\n", range(0)),
        ("orders:100000\norders:100000:1:2\norders:-5:100\norders:a:b\norders::\n#orders:1:2\n", range(0)),
        (f"orders:{'9' * 5000}:1\n", range(0)),
        ("orders:١٠:100\n:::\norders:500:17", range(500, 517)),
    ],
)
def test_the_longest_range_of_a_user_is_found_by_name_and_by_number(text: str, found: range) -> None:
    assert largest(text, {NAME, NUMBER}) == found


@given(st.text(st.sampled_from("orders:0123456789\n #-"), max_size=80))
def test_whatever_the_file_holds_root_is_not_given(text: str) -> None:
    ids = largest(text, {NAME, NUMBER, ""})
    assert not ids or (ids[0] > 0 and ids[-1] < 1 << 32)


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        ([], 100000),
        (["", ""], 100000),
        (["a:100000:65536\n", "b:165536:65536\n"], 231072),
        (["a:500:10\n"], 100000),
    ],
)
def test_the_ids_in_the_way_out_are_nobodys_yet(texts: list[str], first: int) -> None:
    assert unused(texts) == range(first, first + 65536)


def test_as_many_users_as_groups_are_used(tmp_path: Path, programs: Path) -> None:
    found = find_subordinates(own_lines(tmp_path / "etc", "300000:65536", "500000:200"))
    assert isinstance(found, Subordinates)
    assert (found.uids, found.gids) == (range(365336, 365536), range(500000, 500200))
    assert [found.number(uid) for uid in (found.uids[0], found.uids[-1])] == [1, 200]
    assert found.maps(1007, 1008) == [
        [f"{programs}/newuidmap", "0", "1007", "1", "1", "365336", "200"],
        [f"{programs}/newgidmap", "0", "1008", "1", "1", "500000", "200"],
    ]


def test_no_more_are_used_than_are_of_use(tmp_path: Path, programs: Path) -> None:
    found = find_subordinates(own_lines(tmp_path / "etc", "300000:65536", "300000:65536"))
    assert isinstance(found, Subordinates)
    assert len(found.uids) == len(found.gids) == MOST


@pytest.mark.parametrize(
    ("uids", "gids", "lacking"),
    [
        ("300000:15", "300000:65536", "{etc}/subuid"),
        ("300000:65536", "300000:15", "{etc}/subgid"),
        ("300000:0", "300000:0", "{etc}/subuid and {etc}/subgid"),
    ],
)
def test_too_few_are_said_with_the_file_and_the_way_out(
    tmp_path: Path, programs: Path, uids: str, gids: str, lacking: str
) -> None:
    etc = own_lines(tmp_path / "etc", uids, gids)
    found = find_subordinates(etc)
    assert isinstance(found, Missing)
    assert f" in {lacking.format(etc=etc)}, found " in found.why
    assert found.way_out.startswith("sudo usermod --add-subuids ")


def test_files_that_are_not_there_give_none(tmp_path: Path, programs: Path) -> None:
    assert isinstance(find_subordinates(tmp_path / "nowhere"), Missing)


def test_a_program_that_is_missing_is_said_with_its_package(tmp_path: Path, programs: Path) -> None:
    (programs / PROGRAMS[1]).unlink()
    found = find_subordinates(own_lines(tmp_path / "etc", "300000:65536", "300000:65536"))
    assert isinstance(found, Missing)
    assert found.why == f"wanted newuidmap and newgidmap, found {programs}/newuidmap"
    assert "apt install uidmap" in found.way_out
