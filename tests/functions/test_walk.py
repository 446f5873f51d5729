"""Folders and .zip files: some of their entries are taken, others left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.packages import CODE, LAYER, Form, Package, deploy, survey
from millstream.functions.walk import IGNORE_FILE
from tests.functions.test_packages import write, zip_of


def taken(package: Package) -> set[str]:
    return {each.name for each in package.listing.entries}


def left_out(package: Package) -> dict[str, str]:
    return {each.name: each.rule for each in package.listing.left_out}


def both(folder: Path) -> Package:
    """List a folder, and assert that a .zip file of it holds the same."""
    package = survey(folder, CODE)
    zipped = survey(zip_of(folder, folder.with_suffix(".zip")), CODE)
    assert zipped.digest == package.digest
    assert left_out(zipped) == left_out(package)
    return package


def test_what_is_left_out_has_its_rule(tmp_path: Path) -> None:
    code = write(
        tmp_path / "code",
        *("f.py", "lib/f.py", ".git/config", "lib/__pycache__/f.pyc", "env/pyvenv.cfg", "env/lib/x.py"),
        *(".millstream/lock", ".millstream/state.db", "second/lock", "second/daemon-id", "third/lock"),
    )
    os.mkfifo(code / "pipe")
    package = both(code)
    assert taken(package) == {"f.py", "lib/f.py", "third/lock"}
    assert left_out(package) == {
        ".git": ".git",
        "lib/__pycache__": "__pycache__",
        "env": "virtual environment",
        ".millstream": "data directory",
        "second": "data directory",
        "pipe": "no file, link or folder",
    }


def test_a_virtual_environment_may_be_a_layer(tmp_path: Path) -> None:
    source = write(tmp_path / "layer", "python/pyvenv.cfg", "python/lib/python3.11/site-packages/m.py")
    assert taken(survey(source, LAYER)) >= {"python/lib/python3.11/site-packages/m.py"}
    assert taken(survey(source, CODE)) == set()


def test_a_folder_that_holds_nothing_is_there(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "f.py", "only/__pycache__/f.pyc")
    (code / "empty" / "below").mkdir(parents=True)
    assert taken(both(code)) == {"f.py", "only", "empty/below"}
    target = deploy(code, tmp_path / "store").folder
    assert (target / "empty" / "below").is_dir()


def test_an_ignore_file_holds_for_folders_and_zips(tmp_path: Path) -> None:
    code = write(
        tmp_path / "code", "f.py", "notes.log", "kept.log", "lib/a.log", "data/x", "data/y", "lib/data/x"
    )
    (code / IGNORE_FILE).write_text("# notes\n*.log\n!kept.log\n/data/*\n!/data/y\n")
    package = both(code)
    assert taken(package) == {IGNORE_FILE, "f.py", "kept.log", "lib/data/x", "data/y"}
    assert left_out(package) == dict.fromkeys(["notes.log", "lib/a.log", "data/x"], IGNORE_FILE)


def test_a_pattern_for_all_that_a_folder_holds_is_not_about_the_folder(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "data/x", "data/kept", "data/deep/x")
    (code / IGNORE_FILE).write_text("data/**\n!data/kept\n")
    assert taken(both(code)) == {IGNORE_FILE, "data/kept"}


def test_nothing_below_an_ignored_folder_is_looked_at(tmp_path: Path) -> None:
    code = write(tmp_path / "code", "f.py", "data/kept")
    (code / "data" / "out").symlink_to("/etc/passwd")
    (code / IGNORE_FILE).write_text("data\n!data/kept\n")
    assert taken(both(code)) == {IGNORE_FILE, "f.py"}


@pytest.mark.parametrize(
    ("text", "found"), [("!", "Invalid git pattern: '!'"), ("[z-a]", "bad character range")]
)
def test_a_wrong_pattern_is_one_clear_line(tmp_path: Path, text: str, found: str) -> None:
    code = write(tmp_path / "code", "f.py")
    (code / IGNORE_FILE).write_text(text)
    with pytest.raises(
        InvalidConfiguration, match=r"wanted patterns of gitignore in \.millstreamignore, found"
    ) as e:
        survey(code, CODE)
    assert found in str(e.value)


def test_a_pattern_that_takes_for_ever_takes_no_longer_than_the_child_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.functions.walk.IGNORE_CPU_S", 1)
    code = write(tmp_path / "code", "a" * 200)
    (code / IGNORE_FILE).write_text("*a" * 30 + "b\n")
    with pytest.raises(InvalidConfiguration, match="more than 1 s of CPU time"):
        survey(code, CODE)


NAMES = st.sampled_from(["a", "b", "k.log", ".env", "__pycache__", ".git", "pyvenv.cfg", "lock", "state.db"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(PATHS, st.sampled_from(["", "x", "x = 1\n"]), max_size=8)
LINKS = st.dictionaries(PATHS, st.sampled_from(["a", "../a", "b/../a", "."]), max_size=2)
LINES = st.lists(
    st.sampled_from(["a", "/a", "b/", "*.log", "!k.log", "a/*", "!a/b", "**/b", "a/**", "/b/a", "!/b"]),
    max_size=4,
)


def make(folder: Path, files: dict[str, str], links: dict[str, str]) -> None:
    """Make as many of these as fit together."""
    folder.mkdir()
    for name, text in files.items():
        path = folder / name
        if not path.exists() and not any((folder / above).is_file() for above in Path(name).parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if len(text) == 1 else 0o640)
    for name, target in links.items():
        path = folder / name
        if not path.exists() and path.parent.is_dir() and not path.is_symlink():
            path.symlink_to(target)


@settings(
    max_examples=max(10, settings().max_examples // 4), deadline=None
)  # each starts up to three processes
@given(FILES, LINKS, LINES)
def test_a_folder_and_a_zip_of_it_are_the_same_package(
    files: dict[str, str], links: dict[str, str], lines: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        folder = Path(place, "folder")
        make(folder, files, links)
        if lines:
            (folder / IGNORE_FILE).write_text("\n".join(lines))
        assert outcome(zip_of(folder, Path(place, "f.zip"))) == outcome(folder)


def outcome(source: Path) -> str:
    """The digest of a source, or why it is refused."""
    try:
        return survey(source, CODE).digest
    except InvalidConfiguration as invalid:
        return str(invalid)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is what the rules are compared with")
@settings(max_examples=max(10, settings().max_examples // 4), deadline=None)
@given(FILES, LINES.filter(bool))
def test_what_is_ignored_is_what_git_ignores(files: dict[str, str], lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "folder")
        make(folder, {name: text for name, text in files.items() if ".git" not in name}, {})
        (folder / IGNORE_FILE).write_text("\n".join(lines))
        git = ["git", "-c", "core.quotePath=off", "-C", str(folder)]
        subprocess.run([*git, "init", "-q"], check=True)
        command = [*git, "ls-files", "-z", "--others", f"--exclude-from={IGNORE_FILE}"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        expected = {name for name in listed.split("\0") if name}
        everything = Form("code", "/var/task", virtualenvs=True)
        package = survey(folder, everything)
        own = {"__pycache__", "data directory"}
        apart = [f"{each.name}/" for each in package.listing.left_out if each.rule in own]
        apart += [each.name for each in package.listing.left_out if each.rule in own]
        found = {name for name, _ in package.listing.files()}
        assert found == {name for name in expected if not name.startswith(tuple(apart))}
