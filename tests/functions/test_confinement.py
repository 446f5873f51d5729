"""The process that takes packages apart can do nothing else, and takes no more than it may."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.functions import bytecode
from millstream.functions.bytecode import problem_of
from millstream.functions.confined import landlock
from millstream.functions.confinement import USER, Bounds, CannotTakeApart, Child
from millstream.functions.packages import deploy
from tests.functions.test_packages import names, problems, write

ATTEMPTS = """
import json, os, socket, subprocess, sys
from millstream.functions.confined.child import confine
confine(62992, 5, 1 << 30, 3)

def outcome(attempt):
    try:
        attempt()
    except (OSError, MemoryError, PermissionError) as error:
        return type(error).__name__
    return "possible"

attempts = {
    "read": lambda: open("/etc/hostname"),
    "list": lambda: os.listdir("/"),
    "socket": lambda: socket.socket(),
    "process": lambda: os.fork(),
    "program": lambda: subprocess.run(["/bin/true"]),
    "memory": lambda: bytes(2 << 30),
    "remove": lambda: os.unlink(sys.argv[1]),
    "make": lambda: os.mkdir(sys.argv[1] + "2"),
    "rename": lambda: os.rename(sys.argv[1], sys.argv[1] + "3"),
    "signal": lambda: os.kill(os.getppid(), 0),
}
found = {name: outcome(attempt) for name, attempt in attempts.items()}
os.write(1, json.dumps(found | {"uid": os.geteuid()}).encode())
"""


def test_a_confined_process_opens_nothing_and_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(tmp_path / "file")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    uid = found.pop("uid")
    assert uid == (USER if os.geteuid() == 0 else os.geteuid())
    possible = {name for name, outcome in found.items() if outcome == "possible"}
    assert possible <= (set() if os.geteuid() == 0 else lacking(landlock.version()))


def lacking(known: int) -> set[str]:
    """List what a kernel of this version of Landlock cannot take from an ordinary user's child."""
    files = {"remove", "make", "rename"} if known < landlock.FILES else set()
    return files | ({"signal"} if known < landlock.SCOPES else set())


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (1, [0x1FFF]),
        (2, [0x3FFF]),
        (3, [0x7FFF]),
        (4, [0x7FFF, 3]),
        (5, [0xFFFF, 3]),
        (6, [0xFFFF, 3, 3]),
        (9, [0xFFFF, 3, 3]),
    ],
)
def test_a_kernel_is_asked_for_what_it_knows(known: int, wanted: list[int]) -> None:
    assert landlock.ruleset(known) == struct.pack(f"{len(wanted)}Q", *wanted)


def test_a_child_has_no_root_and_what_it_needs_to_answer() -> None:
    with Child("python") as child:
        child.ask("f.py")
        child.send("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
        assert child.answer() is None
        assert b"".join(child.data())


def test_a_child_that_says_nothing_is_ended_at_its_deadline() -> None:
    child = Child("python", bounds=Bounds(deadline_s=0.3))
    with child, pytest.raises(CannotTakeApart, match=r"more than 0\.3 s needed"):
        child.answer()


def test_a_child_that_ends_is_no_fault_of_the_daemon() -> None:
    with Child("python") as child:
        child.ask("f.py")
        child._process.terminate()
        child._process.wait()
        with pytest.raises(CannotTakeApart):
            child.send(b"x" * (1 << 20))


@pytest.mark.parametrize(
    "source",
    [
        "-" * 1_000_000 + "1",
        "[" * 100_000,
        "not " * 200_000 + "1",
        "lambda:" * 100_000 + "1",
        "a='\0'",
        "\ud800",
    ],
)
def test_a_source_that_no_compiler_takes_is_one_problem(source: str) -> None:
    found = problem_of(source.encode(errors="surrogatepass"), "f.py")
    assert found is not None
    assert found.field == "handler"
    assert len(str(found).splitlines()) == 1


def test_a_handler_that_the_compiler_refuses_is_said_by_its_line(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "f.py")
    (code / "f.py").write_text("x = 1\nreturn 1\n")  # which no parser minds
    assert [p.wanted for p in problems(code, "f.handle")] == ["valid Python in f.py:2"]


def test_a_source_in_a_rare_encoding_is_left_to_whoever_imports_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = b"# coding: utf-7\nx = '+AOk-'\n"
    assert problem_of(source, "f.py") is None
    code = write(tmp_path / "code", "f.py")
    (code / "g.py").write_bytes(source)
    target = deploy(code, tmp_path / "store").folder
    assert [path.name.partition(".")[0] for path in target.rglob("*.pyc")] == ["f"]
    assert [vars(record)["files"] for record in caplog.records] == [1]


def test_what_is_too_large_to_compile_works_without_bytecode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = write(tmp_path / "code", "f.py")
    (code / "large.py").write_text("# " + "x" * bytecode.SOURCE_BYTES)
    target = deploy(code, tmp_path / "store").folder
    assert [path.name.partition(".")[0] for path in target.rglob("*.pyc")] == ["f"]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "python compiled at each start" in record.getMessage()
    assert vars(record)["files"] == 1


def test_a_source_that_takes_too_long_costs_its_own_bytecode_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "BOUNDS", Bounds(cpu_s=2, memory_bytes=200 << 20))
    code = write(tmp_path / "code", "a.py", "z.py")
    (code / "m.py").write_text("a=1\n" * (bytecode.SOURCE_BYTES // 4))  # seconds, and half a gigabyte
    target = deploy(code, tmp_path / "store").folder
    assert sorted(path.name.partition(".")[0] for path in target.rglob("*.pyc")) == ["a", "z"]


def test_a_zip_with_entries_without_end_is_refused(tmp_path: Path) -> None:
    # A directory alone: nobody gets to what it tells of.
    head = bytearray(b"PK\1\2" + bytes(42))
    head[28:30] = (6).to_bytes(2, "little")
    directory = b"".join(bytes(head) + b"%06d" % number for number in range(100_001))
    size = len(directory).to_bytes(4, "little")
    (tmp_path / "g.zip").write_bytes(directory + b"PK\5\6" + bytes(8) + size + bytes(6))
    with pytest.raises(InvalidConfiguration, match="100001 entries, more than 100000"):
        deploy(tmp_path / "g.zip", tmp_path / "store")


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(1 << 20))
    data = bytearray((tmp_path / "g.zip").read_bytes())
    at = data.rfind(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 1)
    (tmp_path / "g.zip").write_bytes(data)
    with pytest.raises(InvalidConfiguration, match=r"wanted a \.zip file that can be unpacked"):
        deploy(tmp_path / "g.zip", tmp_path / "store")


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["n" * 200] * 25)])
def test_a_name_that_no_file_can_have_is_the_packages_fault(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr(name, b"")
        archive.writestr("f.py", b"")
    with pytest.raises(InvalidConfiguration, match="code: wanted names that a file can have, found n"):
        deploy(tmp_path / "g.zip", tmp_path / "store")
    assert [problem.field for problem in problems(tmp_path / "g.zip", "f.x")] == ["code"]


LARGE = """
import resource, sys, zipfile
from pathlib import Path
from millstream.functions.packages import deploy
place = Path(sys.argv[1])
with zipfile.ZipFile(place / "g.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open("zeros", "w") as out:
        for _ in range(249):
            out.write(bytes(1 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
target = deploy(place / "g.zip", place / "store").folder
assert (target / "zeros").stat().st_size == 249 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


def test_a_package_of_250_mb_passes_through_a_few_mb_of_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 30


def test_a_zip_file_larger_than_an_upload_may_be_is_taken(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("data", bytes(51 << 20))
    assert names(deploy(tmp_path / "g.zip", tmp_path / "store").folder) == {"data"}
