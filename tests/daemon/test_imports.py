"""Handlers are imported in a sandbox before anything runs; what is missing is said with the way out."""

from __future__ import annotations

import socket
import zipfile
from pathlib import Path

import pytest

from millstream.daemon.imports import Imported, import_handlers
from millstream.daemon.loader import load
from millstream.daemon.plan import Plan, make_plan
from tests.functions.images.making import file, layer, simple

pytestmark = pytest.mark.broker

HEAD = "from millstream import App, Function, Sqs\napp = App('orders')\n"


def plan(folder: Path, *functions: str) -> Plan:
    declared = (f"app.map(Sqs('q{n}'), to=Function('f{n}', {each}))\n" for n, each in enumerate(functions))
    (folder / "app.py").write_text(HEAD + "".join(declared))
    return make_plan(load(folder / "app.py"))


def package(folder: Path, text: str) -> str:
    """The options of a function with this module."""
    folder.mkdir(parents=True)
    (folder / "m.py").write_text(text)
    return f"handler='m.h', code={str(folder)!r}"


async def imported(folder: Path, *functions: str, isolation: str = "bwrap") -> Imported:
    return await import_handlers(plan(folder, *functions), isolation)


GOOD = "import boto3\ndef h(event, context): ...\n"


async def test_a_handler_that_can_be_imported_is_counted(tmp_path: Path) -> None:
    found = await imported(tmp_path, package(tmp_path / "a", GOOD), package(tmp_path / "b", GOOD))
    assert found == Imported(count=2)


@pytest.mark.parametrize(
    ("text", "wanted", "said"),
    [
        (
            "import absent.part\ndef h(e, c): ...",
            "absent in the package (`pip install absent -t {folder}`) or in a layer",
            "Unable to import module 'm': No module named 'absent'",
        ),
        (
            "from os import absent\ndef h(e, c): ...",
            "a module m that can be imported",
            "Unable to import module 'm': cannot import name 'absent' from 'os' ",
        ),
        ("def other(e, c): ...", "a function h in module m", "none"),
        ("import n\ndef h(e, c): ...", "valid Python in all that m imports", "Syntax error in module 'm': "),
    ],
)
async def test_what_is_missing_is_one_line_with_the_way_out(
    tmp_path: Path, text: str, wanted: str, said: str
) -> None:
    options = package(tmp_path / "a", text)
    (tmp_path / "a" / "n.py").write_text("def (")
    found = await imported(tmp_path, options, package(tmp_path / "b", GOOD))
    (problem,) = found.problems
    assert problem.field == "handler"
    assert problem.where == "app.py:3 function 'f0'"
    assert problem.wanted == wanted.format(folder=tmp_path / "a")
    assert problem.found.startswith(said[:60])
    assert found.count == 1


async def test_a_handler_that_another_module_wraps_is_imported_and_run_by_its_own_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "tools.py").write_text(
        "import functools\ndef wrapping(f):\n    @functools.wraps(f)\n"
        "    def wrapper(*given):\n        return f(*given)\n    return wrapper\n"
    )
    text = "from tools import wrapping\n@app.function\n@wrapping\ndef f(event, context): ...\n"
    (tmp_path / "app.py").write_text(HEAD + text)
    assert await import_handlers(make_plan(load(tmp_path / "app.py")), "bwrap") == Imported(count=1)


async def test_the_way_out_for_a_zip_is_the_folder_that_it_is_made_of(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("m.py", "import absent\ndef h(e, c): ...")
    found = await imported(tmp_path, "handler='m.h', code='a.zip'")
    (problem,) = found.problems
    assert "`pip install absent -t FOLDER`, and zip that folder" in problem.wanted


async def test_a_module_of_a_layer_is_found(tmp_path: Path) -> None:
    (tmp_path / "one" / "python").mkdir(parents=True)
    (tmp_path / "one" / "python" / "present.py").write_text("x = 1\n")
    options = package(tmp_path / "a", "import present\ndef h(e, c): ...")
    assert (await imported(tmp_path, f"{options}, layers=['one']")).count == 1


async def test_what_only_this_host_may_lack_is_no_problem_and_is_said(tmp_path: Path) -> None:
    raises = package(tmp_path / "a", "import os\nos.environ['TABLE']\n")
    ends = package(tmp_path / "b", "import os\nos._exit(3)\n")
    escapes = package(tmp_path / "c", "raise ValueError('\\x1b[2J\\nnext')\n")
    found = await imported(tmp_path, raises, ends, escapes)
    assert (found.problems, found.count) == ([], 0)
    assert found.failed["f0"] == "KeyError: 'TABLE'"
    assert found.failed["f1"].startswith("Runtime.ExitError")
    assert found.failed["f2"] == r"ValueError: '\x1b[2J\nnext'"


async def test_a_handler_reaches_no_network_while_it_is_checked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach = f"import socket\nsocket.create_connection(('localhost', {port}), 2)\n"
        found = await imported(tmp_path, f"{package(tmp_path / 'a', reach)}, network=['localhost:{port}']")
    assert found.failed == {"f0": "ConnectionRefusedError: [Errno 111] Connection refused"}


async def test_other_runtimes_and_images_are_not_started(tmp_path: Path) -> None:
    simple(tmp_path / "image", layer(file("app")))
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "bootstrap").write_text("#!/bin/sh\n")
    (folder / "bootstrap").chmod(0o755)
    provided = f"handler='h', code={str(folder)!r}, runtime='provided.al2023'"
    assert await imported(tmp_path, "image='image'", provided) == Imported()


async def test_a_sandbox_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    found = await imported(tmp_path, package(tmp_path / "a", GOOD), isolation="docker")
    assert "none.sock" in found.unavailable
    assert (found.count, found.problems, found.failed) == (0, [], {})
