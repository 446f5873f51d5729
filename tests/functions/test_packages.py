"""Deploying code: what is taken, what is refused."""

from __future__ import annotations

import os
import socket
import stat
import zipfile
from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration, Problem, StateUnavailable
from millstream.functions import packages
from millstream.functions.handlers import check_package
from millstream.functions.interpreters import Interpreters
from millstream.functions.options import FunctionOptions
from millstream.functions.packages import Packages


def deploy(code: Path, store: Path) -> Path:
    return packages.deploy(code, store).folder


def problems(code: Path, handler: str, runtime: str | None = None) -> list[Problem]:
    options = FunctionOptions(name="f", handler=handler, code=str(code), runtime=runtime)
    try:
        check_package(code, (), options, Interpreters({}), Packages())
    except InvalidConfiguration as invalid:
        return list(invalid.problems)
    return []


def names(target: Path) -> set[str]:
    """The files of a snapshot, less bytecode."""
    found = (path for path in target.rglob("*") if path.suffix != ".pyc" and not path.is_dir())
    return {path.relative_to(target).as_posix() for path in found}


def write(folder: Path, *paths: str) -> Path:
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")
    return folder


def test_a_folder_is_taken_as_it_is_with_names_that_begin_with_a_dot(tmp_path: Path) -> None:
    taken = [
        "f.py",
        "lib/g.py",
        "data.txt",
        ".env",
        ".next/page.js",
        "node_modules/.prisma/i.js",
        "venv/y.py",
    ]
    code = write(tmp_path / "code", *taken, ".git/config", "lib/.git", "lib/.svn/entries", ".hg/store")
    target = deploy(code, tmp_path / "store")
    assert names(target) == set(taken)
    assert len(list(target.rglob("*.pyc"))) == 3


def test_another_user_can_read_a_snapshot_and_nobody_else_write_it(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "f.py").write_text("x = 1\n")
    (code / "f.py").chmod(0o600)
    before = os.umask(0o077)
    try:
        target = deploy(code, tmp_path / "store")
    finally:
        os.umask(before)
    for path in [target, *target.rglob("*")]:
        mode = path.stat().st_mode
        assert mode & 0o044 == 0o044, path
        assert mode & 0o022 == 0, path
        assert not stat.S_ISDIR(mode) or mode & 0o011 == 0o011


def test_the_same_content_is_deployed_once_and_another_beside_it(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "f.py").write_text("x = 1\n")
    first = deploy(code, tmp_path / "store")
    assert deploy(code, tmp_path / "store") == first
    (code / "f.py").write_text("x = 2\n")
    assert deploy(code, tmp_path / "store") != first
    assert (first / "f.py").read_text() == "x = 1\n"
    assert [p for p in (tmp_path / "store").iterdir() if p.name.startswith(".new")] == []


def test_a_store_inside_the_package_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("x = 1\n")
    store = tmp_path / "data" / "code"
    first = deploy(tmp_path, store)
    assert deploy(tmp_path, store) == first


def test_what_lies_beside_the_data_directory_is_part_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "var" / "data").mkdir(parents=True)
    (tmp_path / "var" / "kept.txt").write_text("x")
    (tmp_path / "var" / "data" / "state.db").write_text("x")
    target = deploy(tmp_path, tmp_path / "var" / "data" / "code")
    assert [p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()] == ["var/kept.txt"]


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "..\\evil.py"])
def test_a_zip_entry_that_leaves_the_package_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr(name, "x = 1\n")
    with pytest.raises(InvalidConfiguration, match="wanted names that stay inside the package"):
        deploy(tmp_path / "g.zip", tmp_path / "store")
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_zip_entry_that_is_neither_file_nor_link_is_left_out(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr(info, "x")
        archive.writestr("f.py", "x")
    assert names(deploy(tmp_path / "g.zip", tmp_path / "store")) == {"f.py"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../passwd", "lib/../../x", "up/../..", "out"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_link_that_leads_out_of_a_package_or_in_a_circle_is_refused(
    tmp_path: Path, target: str, zipped: bool
) -> None:
    code = write(tmp_path / "code", "f.py", "lib/g.py")
    (code / "up").symlink_to(".")
    (code / "out").symlink_to(target)
    source = zip_of(code, tmp_path / "g.zip") if zipped else code
    wanted = "wanted relative links that stay inside the package, or .* found out, to "
    with pytest.raises(InvalidConfiguration, match=wanted):
        deploy(source, tmp_path / "store")
    assert [problem.field for problem in problems(source, "f.x")] == ["code"]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def zip_of(folder: Path, target: Path) -> Path:
    """A .zip file of a folder as `zip -ry` makes one."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, folders, files in os.walk(folder):
            for name in [*folders, *files]:
                path = Path(place, name)
                relative = path.relative_to(folder).as_posix()
                if path.is_symlink():
                    archive.writestr(link(relative), os.readlink(path))
                elif path.is_fifo():
                    info = zipfile.ZipInfo(relative)
                    info.external_attr = path.lstat().st_mode << 16
                    archive.writestr(info, b"")
                else:
                    archive.write(path, f"./{relative}")
    return target


@pytest.mark.parametrize("zipped", [True, False])
def test_links_that_stay_inside_are_kept_as_links(tmp_path: Path, zipped: bool) -> None:
    code = write(tmp_path / "code", "f.py", "lib/g.py")
    (code / "g.py").symlink_to("lib/g.py")
    (code / "linked").symlink_to("lib")
    (code / "lib" / "dangling").symlink_to("../linked/none")
    target = deploy(zip_of(code, tmp_path / "g.zip") if zipped else code, tmp_path / "store")
    assert os.readlink(target / "g.py") == "lib/g.py"
    assert os.readlink(target / "linked") == "lib"
    assert os.readlink(target / "lib" / "dangling") == "../linked/none"


def test_a_handler_may_be_a_link_to_a_file_of_the_package(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "lib/g.py")
    (code / "f.py").symlink_to("lib/g.py")
    assert problems(code, "f.x") == []


def test_a_package_above_the_limit_is_refused(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "f.py").write_text("x = 'more than ten bytes'\n")
    with pytest.raises(InvalidConfiguration, match="at most 250 MB unzipped, layers included"):
        packages.deploy(code, tmp_path / "store", room_bytes=10)


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateUnavailable, match="wanted room for the functions' code"):
        deploy(tmp_path, Path("/proc/nowhere"))


def test_a_virtualenv_of_any_name_is_no_part_of_a_package(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "env" / "lib").mkdir(parents=True)
    (code / "env" / "pyvenv.cfg").write_text("home = /usr\n")
    (code / "env" / "lib64").symlink_to("lib")
    (code / "f.py").write_text("x = 1\n")
    assert not (deploy(code, tmp_path / "store") / "env").exists()


def test_pipes_and_sockets_are_left_out_and_not_read(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "f.py")
    os.mkfifo(code / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(code / "socket"))
        assert names(deploy(code, tmp_path / "store")) == {"f.py"}


def _zip(path: Path, *names: str) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "x = 1\n" * 50)
    return path.read_bytes()


def test_a_damaged_zip_is_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "g.zip"
    data = bytearray(_zip(path, "f.py"))
    data[40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InvalidConfiguration, match=r"wanted a \.zip file that can be unpacked"):
        deploy(path, tmp_path / "store")
    assert [p.wanted for p in problems(path, "f.handle")] == ["a .zip file that can be unpacked"]


def test_an_encrypted_zip_is_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "g.zip"
    data = bytearray(_zip(path, "f.py"))
    data[6] |= 1  # the flag in the entry's header, and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InvalidConfiguration, match=r"wanted a \.zip file that can be unpacked"):
        deploy(path, tmp_path / "store")


def test_an_entry_below_a_file_is_refused(tmp_path: Path) -> None:
    _zip(tmp_path / "g.zip", "a", "a/b.py")
    with pytest.raises(InvalidConfiguration, match="wanted names that are a file or a folder"):
        deploy(tmp_path / "g.zip", tmp_path / "store")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    _zip(tmp_path / "g.zip", "f.py", "f.py")
    with pytest.raises(InvalidConfiguration, match=r"wanted each name once, found f\.py twice"):
        deploy(tmp_path / "g.zip", tmp_path / "store")


def test_what_a_handler_lacks_is_said_before_anything_runs(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "f.py").write_text("def handle(e, c):\n    return (\n")
    assert [p.wanted for p in problems(code, "handle")] == ['"module.function"']
    assert [p.wanted for p in problems(code, "g.handle")] == [f"a file g.py in {code}"]
    assert [p.wanted for p in problems(code, "f.handle")] == ["valid Python in f.py:2"]
    assert [p.field for p in problems(code, "f.handle", "cobol85")] == ["runtime"]
    assert [p.found for p in problems(code / "no", "f.handle")] == [f"nothing at {code / 'no'}"]


@pytest.mark.parametrize("zipped", [True, False])
def test_executable_files_stay_executable(tmp_path: Path, zipped: bool) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "bootstrap").write_text("#!/bin/sh\n")
    (code / "bootstrap").chmod(0o700)
    (code / "data").write_text("x")
    source = code
    if zipped:
        source = tmp_path / "code.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name in ("bootstrap", "data"):
                archive.write(code / name, name)
    target = deploy(source, tmp_path / "store")
    assert stat.S_IMODE((target / "bootstrap").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "data").stat().st_mode) == 0o644


def test_bytecode_that_a_zip_brings_is_never_taken(tmp_path: Path) -> None:
    _zip(tmp_path / "g.zip", "f.py", "__pycache__/f.cpython-311.pyc", "__pycache__/g.pyc")
    target = deploy(tmp_path / "g.zip", tmp_path / "store")
    assert not (target / "__pycache__" / "g.pyc").exists()


def test_folders_without_an_end_are_refused(tmp_path: Path) -> None:
    _zip(tmp_path / "g.zip", "/".join(["d"] * 300))
    with pytest.raises(InvalidConfiguration, match="wanted at most 200 folders in one another, found more"):
        deploy(tmp_path / "g.zip", tmp_path / "store")


def _bad_zips() -> dict[str, list[tuple[str | zipfile.ZipInfo, bytes]]]:
    return {
        "climbs": [("../f.py", b"")],
        "absolute": [("/f.py", b"")],
        "backslash": [("a\\f.py", b"")],
        "long": [("n" * 256, b"")],
        "twice": [("f.py", b""), ("./f.py", b"")],
        "below": [("a", b""), ("a/f.py", b"")],
        "link out": [(link("l"), b"../x")],
        "link to nothing": [(link("l"), b"")],
        "long link": [(link("l"), b"a/" * 3000)],
        "deep": [("d/" * 300 + "f.py", b"")],
    }


@pytest.mark.parametrize("kind", list(_bad_zips()))
def test_what_a_start_refuses_a_check_refuses_in_the_same_words(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "g.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m.py", "x = 1\n")
        for name, data in _bad_zips()[kind]:
            archive.writestr(name, data)
    with pytest.raises(InvalidConfiguration) as invalid:
        deploy(path, tmp_path / "store")
    assert problems(path, "m.x") == list(invalid.value.problems)
    assert list((tmp_path / "store").glob("*")) == []


def test_a_package_is_too_large_with_its_layers_for_a_check_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.functions.handlers.UNZIPPED_BYTES", 10)
    code, layer = write(tmp_path / "code", "f.py"), write(tmp_path / "layer", "python/g.py")
    options = FunctionOptions(name="f", handler="f.x", code=str(code))
    assert problems(code, "f.x") == []
    with pytest.raises(InvalidConfiguration, match="code: wanted at most 250 MB unzipped, layers included"):
        check_package(code, [layer], options, Interpreters({}), Packages())


def test_a_source_that_functions_share_is_looked_at_once(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "f.py")
    packages = Packages()
    options = FunctionOptions(name="f", handler="f.x", code=str(code))
    first = check_package(code, [], options, Interpreters({}), packages)
    second = check_package(code, [], options, Interpreters({}), packages)
    assert first.code is second.code
