"""The programs of a host that run functions: which is taken, and how a sandbox gets it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from millstream.contract.errors import Problem
from millstream.functions.interpreters import JAVA, NODE, PYTHON, Installed, Interpreter, Interpreters

VARIABLE = "MILLSTREAM_RUNTIME_X"


def program(path: Path, says: str, status: int = 0) -> Path:
    """A program that prints something, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    path.chmod(0o755)
    return path


def find(
    wanted: Interpreter, version: str, named: dict[str, Path] | None = None, private: Path | None = None
) -> Installed | Problem:
    found = Interpreters(named or {}, (private,) if private else ())
    return found.find("x", wanted, version, VARIABLE)


@pytest.fixture(autouse=True)
def _nothing_else_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")


def test_an_installation_outside_usr_is_had_at_var_lang(tmp_path: Path) -> None:
    node = program(tmp_path / "node-20" / "bin" / "node", "v20.1.0")
    assert find(NODE, "20", {"x": node}) == Installed(tmp_path / "node-20", "/var/lang/bin/node")


def test_a_link_on_the_path_leads_to_the_installation(tmp_path: Path) -> None:
    node = program(tmp_path / "node-99" / "bin" / "node", "v99.1.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "node").symlink_to(node)
    assert find(NODE, "99") == Installed(tmp_path / "node-99", "/var/lang/bin/node")


def test_the_program_behind_a_shim_is_taken(tmp_path: Path) -> None:
    real = program(tmp_path / "3.99" / "bin" / "python3.99", "")
    program(tmp_path / "bin" / "python3.99", f"3.99.1 (main)\nat {real}")
    assert find(PYTHON, "3.99") == Installed(tmp_path / "3.99", "/var/lang/bin/python3.99")


def test_a_shim_that_fails_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3.99", "3.99.1 (main)", status=127)
    found = find(PYTHON, "3.99")
    assert found == Problem(
        "",
        "runtime",
        "Python 3.99 for x: install it, or have pyenv or uv do so, or name one by MILLSTREAM_RUNTIME_X=/path",
        "none on this host",
    )


@pytest.mark.parametrize(
    ("says", "version", "fits"),
    [
        ("    java.specification.version = 1.8", "8", True),
        ("    java.specification.version = 17", "17", True),
        ("    java.specification.version = 18", "8", False),
        ("    java.specification.version = 17", "1", False),
        ("    java.version = 17", "17", False),
    ],
)
def test_java_says_its_version_in_its_own_way(tmp_path: Path, says: str, version: str, fits: bool) -> None:
    java = program(tmp_path / "jdk" / "bin" / "java", says)
    assert isinstance(find(JAVA, version, {"x": java}), Installed) is fits


def test_a_named_program_of_another_version_is_one_line_and_nothing_else_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "node", "v20.1.0")
    named = program(tmp_path / "other" / "bin" / "node", "v18.1.0")
    assert find(NODE, "20", {"x": named}) == Problem(
        "", "runtime", f"Node.js 20 at {named}, as MILLSTREAM_RUNTIME_X says", "none that runs"
    )


def test_an_installation_that_would_show_private_files_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    node = program(home / "bin" / "node", "v20.1.0")
    found = find(NODE, "20", {"x": node}, private=home)
    assert isinstance(found, Problem)
    assert found.wanted == "Node.js in a folder of its own"
    assert f"all of {home}" in found.found


def test_a_program_below_usr_needs_no_place_of_its_own() -> None:
    perl = Interpreter("Perl", ("perl",), ("/usr/bin/perl",), ("-v",), r"v{0}\.", None, 2, "")
    found = find(perl, "5")
    if isinstance(found, Problem):
        pytest.skip("wanted perl below /usr, found none")
    assert found.prefix is None
    assert found.inside.startswith("/usr/bin/perl")


def test_a_real_python_says_where_it_is() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = find(PYTHON, version, {"x": Path(sys.executable)})
    assert isinstance(found, Installed)
    assert found.inside.endswith(f"/python{version}")
