"""The control socket: where it is, and who is believed."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.daemon.control import NoDaemon, Request, ask, served
from millstream.daemon.data_dir import control_socket
from millstream.daemon.peers import peer_uid, private_folder

OTHER_USER = 62995
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")

SQUATTER = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
listener.listen()
print("there", flush=True)
connection, _ = listener.accept()
sys.stdout.write(repr(connection.recv(65536)))
connection.send(b'{"payload": "forged"}\\n')
"""

CALLER = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(10)
caller.connect(sys.argv[1])
try:
    caller.sendall(b'{"op": "mappings"}\\n')
    answer = caller.recv(65536)
except ConnectionError:
    answer = b""
sys.stdout.write(repr(answer))
"""


async def hello(request: Request) -> dict[str, Any]:
    return {"hello": request.op}


async def asked(path: Path) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(None, ask, path, Request("mappings"))


@pytest.mark.parametrize("depth", [0, 3], ids=["short", "long"])
async def test_a_daemon_answers_in_its_directory_however_long_its_path_is(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["x" * 60] * depth)
    directory.mkdir(parents=True, exist_ok=True)
    path = control_socket(directory)
    for _ in range(2):  # the second one finds what is left of the first
        async with served(path, hello):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert await asked(path) == {"hello": "mappings"}
        assert not path.exists()
        with closing(socket.socket(socket.AF_UNIX)) as left:
            place = os.open(directory, os.O_PATH)
            left.bind(f"/proc/self/fd/{place}/control.sock")
            os.close(place)
    with pytest.raises(NoDaemon):
        await asked(path)


@as_root
def test_the_command_line_tells_nothing_to_another_users_socket(tmp_path: Path) -> None:
    directory = _for_all(tmp_path)
    path = directory / "control.sock"
    command = [sys.executable, "-c", SQUATTER, str(path), str(OTHER_USER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "there\n"
        with pytest.raises(NoDaemon, match="not of the data directory's owner"):
            ask(path, Request("invoke", "f", msgspec.json.encode({"password": "x"}).decode()))
        assert squatter.stdout.read() == "b''"


@as_root
async def test_the_daemon_answers_no_other_user(tmp_path: Path) -> None:
    path = _for_all(tmp_path) / "control.sock"
    async with served(path, hello):
        path.chmod(0o777)
        for user, told in ((OTHER_USER, b""), (0, b'{"hello":"mappings"}\n')):
            caller = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CALLER, str(path), str(user), stdout=asyncio.subprocess.PIPE
            )
            assert (await caller.communicate())[0].decode() == repr(told)


def test_a_user_is_told_of_each_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()


@pytest.mark.parametrize("what", ["link", "file", "open to others"])
def test_a_folder_that_others_may_have_made_is_not_taken(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "private"
    match what:
        case "link":
            (tmp_path / "other").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "other")
        case "file":
            folder.write_text("")
        case _:
            folder.mkdir()
            folder.chmod(0o755)
    with pytest.raises(PermissionError, match="of this user alone"):
        private_folder(folder)


def test_a_private_folder_is_made_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert stat.S_IMODE(private_folder(tmp_path / "private").stat().st_mode) == 0o700


def _for_all(tmp_path: Path) -> Path:
    """A folder of root's in which everybody may make a socket."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    return directory
