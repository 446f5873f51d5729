"""A line that says what lies in a package's folder and is no part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.functions.left_out import left_out, size_of
from millstream.functions.packages import CODE, LAYER, survey
from millstream.functions.walk import IGNORE_FILE
from tests.functions.test_packages import write, zip_of


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_left_out_is_counted_and_named(tmp_path: Path, zipped: bool) -> None:
    code = write(
        tmp_path / "code",
        *("f.py", ".git/config", ".git/refs/main", "env/pyvenv.cfg", "lib/x.log"),
        *("__pycache__/f.pyc", "lib/__pycache__/g.pyc"),
    )
    (code / IGNORE_FILE).write_text("*.log\n")
    source = zip_of(code, tmp_path / "code.zip") if zipped else code
    expected = (
        "left out 6 files, 36 bytes: .git, __pycache__ (2), env (virtual environment), "
        "lib/x.log (.millstreamignore)"
    )
    assert left_out([survey(source, CODE)]) == expected


def test_nothing_left_out_is_nothing_to_say(tmp_path: Path) -> None:
    assert left_out([survey(write(tmp_path / "code", "f.py"), CODE)]) == ""


def test_many_names_are_some_and_a_number(tmp_path: Path) -> None:
    code = write(tmp_path / "code", *(f"{number}.log" for number in range(9)))
    (code / IGNORE_FILE).write_text("*.log\n")
    assert left_out([survey(code, CODE)]).endswith("4.log (.millstreamignore) and 4 more")


def test_a_package_and_its_layers_are_one_line(tmp_path: Path) -> None:
    code, layer = write(tmp_path / "code", ".git/x"), write(tmp_path / "layer", "lib/.git/x")
    packages = [survey(code, CODE), survey(layer, LAYER)]
    assert left_out(packages) == "left out 2 files, 12 bytes: .git (2)"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1400, "1.4 kB"),
        (2_000_000, "2.0 MB"),
        (3e9, "3.0 GB"),
    ],
)
def test_a_size_is_said_for_a_person(size: int, text: str) -> None:
    assert size_of(int(size)) == text
