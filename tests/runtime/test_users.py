"""Under a root daemon each function is a user of the host of its own."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FileSystem, FunctionSpec
from millstream.runtime.sandboxes.users import IDS, VARIABLE, HostUsers, host_users


def function(name: str, folder: Path | None = None) -> FunctionSpec:
    system = None if folder is None else FileSystem(folder, "/mnt/f")
    return FunctionSpec(name, "arn", "f.handle", Path(), file_system=system)


def test_each_function_has_its_own_and_keeps_it() -> None:
    users = HostUsers(IDS)
    given = [users.of(function(name)) for name in ("a", "b", "c", "a", "b")]
    assert given[:2] == given[3:]
    assert len({*given, users.first}) == 4
    assert set(given) <= set(IDS)


def test_functions_share_the_last_one_where_there_are_too_many_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    users = HostUsers(range(70000, 70003), "a setting")
    assert [users.of(function(name)) for name in "abcd"] == [70001, 70002, 70002, 70002]
    assert [record.getMessage() for record in caplog.records] == [
        "no user of the host is left, functions share the last one"
    ]
    assert caplog.records[0].__dict__["setting"] == "a setting"


def test_a_function_that_writes_to_a_folder_is_the_same_user_in_each_run(tmp_path: Path) -> None:
    for _ in range(2):
        users = HostUsers(IDS)
        users.of(function("other"))
        assert users.of(function("f", tmp_path)) == IDS[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folders_owner_is_its_functions_user_and_nobody_elses(tmp_path: Path) -> None:
    os.chown(tmp_path, IDS[1], IDS[1])
    users = HostUsers(IDS)
    assert users.of(function("f", tmp_path)) == IDS[1]
    assert users.of(function("other")) == IDS[2]
    os.chown(tmp_path, 12345, 12345)  # somebody of the host: no function may become that
    assert users.of(function("g", tmp_path)) == IDS[0]


def test_the_ids_can_be_named() -> None:
    users = host_users({VARIABLE: "70000-70009"})
    assert users.of(function("f")) == 70001


@pytest.mark.parametrize("text", ["0-10", "70009-70000", "70000", "a-b", "1-4294967295", " 1-2", "-1-5"])
def test_ids_that_are_none_are_told_in_one_line(text: str) -> None:
    with pytest.raises(SandboxUnavailable) as refused:
        host_users({VARIABLE: text})
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)
