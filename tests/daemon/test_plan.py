"""What is wrong with a declaration is said at once, each with field, wanted and found."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.daemon.loader import load
from millstream.daemon.plan import Plan, make_plan
from millstream.functions.host import host_architecture

OTHER = "arm64" if host_architecture() == "x86_64" else "x86_64"

HEAD = """
from millstream import App, Destination, Function, Source, Sqs
app = App("orders")

@app.function(timeout=30)
def handle(event, context): ...

"""


def plan(folder: Path, source: str) -> Plan:
    (folder / "app.py").write_text(source, encoding="utf-8")
    return make_plan(load(folder / "app.py"))


def said(folder: Path, source: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as invalid:
        plan(folder, source)
    return [str(problem) for problem in invalid.value.problems]


def test_the_readmes_form_is_planned(tmp_path: Path) -> None:
    (tmp_path / "functions" / "thumbs").mkdir(parents=True)
    (tmp_path / "functions" / "thumbs" / "thumbs.py").write_text("def handler(event, context): ...\n")
    found = plan(
        tmp_path,
        HEAD + 'app.map(Sqs("orders", batch_size=100, batching_window=5, report_batch_item_failures=True),'
        ' to=handle, filters=[{"body": {"type": ["order"]}}])\n'
        'app.map(Sqs("images"), to=Function("thumbs", handler="thumbs.handler", code="functions/thumbs",'
        ' environment={"SIZE": "64"}))\n',
    )
    assert found.app == "orders"
    assert set(found.functions) == {"handle", "thumbs"}
    assert found.functions["handle"].options.handler == "app.handle"
    package = found.functions["handle"].code
    assert package is not None
    assert package.source == tmp_path
    assert [(m.trigger.source, m.function, m.filter_count) for m in found.mappings] == [
        ("orders", "handle", 1),
        ("images", "thumbs", 0),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            'app.map(Sqs("q", batchsize=3), to=handle)',
            "batchsize: wanted batch_size?, found an unknown option",
        ),
        (
            'app.map(Sqs("q", batch_size="x"), to=handle)',
            "batch_size: wanted a whole number from 1 to 10000, found 'x'",
        ),
        (
            'app.map(Sqs("q", batch_size=0), to=handle)',
            "batch_size: wanted a whole number from 1 to 10000, found 0",
        ),
        ('app.map(Sqs("q", batch_size=True), to=handle)', "found True"),
        ('app.map(Sqs("q", batch_size=100), to=handle)', "batching_window: wanted"),
        ('app.map(Sqs("q.fifo", batching_window=1), to=handle)', "batching_window: wanted"),
        ('app.map(Sqs("a b"), to=handle)', "queue: wanted a queue's name, URL or ARN, found 'a b'"),
        (
            'app.map(Sqs("q", maximum_concurrency=1), to=handle)',
            "maximum_concurrency: wanted a whole number from 2 to 1000",
        ),
        (
            'app.map(Sqs("q", maximum_retry_attempts=1), to=handle)',
            "maximum_retry_attempts: wanted on_failure=",
        ),
        ('app.map(Sqs("q"), to=handle, on_failure="file:x")', "on_failure: wanted maximum_retry_attempts="),
        ('app.map(Sqs("q"), to=handle, on_success="nowhere")', "on_success.target: wanted "),
        (
            'app.map(Sqs("q"), to=handle, on_success=Destination("ftp", "x"))',
            "on_success.kind: wanted one of",
        ),
        (
            'app.map(Sqs("q"), to=handle, on_success="function:no")',
            "on_success.target: wanted a declared function",
        ),
        (
            'app.map(Sqs("q"), to=handle, on_success="function:handle")',
            "on_success.target: wanted another function",
        ),
        ('app.map(Sqs("q"), to=handle, filter=[])', "filter: wanted filters?, found an unknown option"),
        ('app.map(Sqs("q"), to=handle, filters={"body": ["x"]})', "filters: wanted a list of patterns"),
        ('app.map(Sqs("q"), to=handle, filters=[{"body": "x"}])', "filters.0.body: wanted"),
        ('app.map(Sqs("q"), to=handle, enabled="yes")', "enabled: wanted True or False, found 'yes'"),
        ('app.map(Sqs("q"), to="nobody")', "to: wanted a declared function (handle), found 'nobody'"),
        ("app.map(Sqs('q'), to=len)", "to: wanted a function declared with @app.function"),
        ("app.map('q', to=handle)", 'source: wanted a source such as Sqs("orders")'),
        (
            'app.map(Source("carrier-pigeon"), to=handle)',
            "source: wanted one of dynamodb, kafka, kinesis, rabbitmq, rabbitmq-stream, sqs, found 'carrier",
        ),
        ('app.map(Sqs("q"), to=handle); app.map(Sqs("q"), to=handle)', "map: wanted one mapping of a source"),
        (
            'app.map(Sqs("q"), to=Function("g", handler="g.h", code="nowhere"))',
            "code: wanted a folder or a .zip file",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="nodot", code="."))',
            'handler: wanted "module.function"',
        ),
        ('app.map(Sqs("q"), to=Function("g", handler="gone.h", code="."))', "handler: wanted a file gone.py"),
        (
            'app.map(Sqs("q"), to=Function("g", handler="broken.h", code="."))',
            "handler: wanted valid Python in broken.py:1",
        ),
        ('app.map(Sqs("q"), to=Function("g h", handler="app.h", code="."))', "name: wanted 1 to 64 letters"),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", memory_size=1))',
            "memory_size: wanted",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", timeout=901))',
            "timeout: wanted a whole number of seconds",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", runtime="cobol85"))',
            "runtime: wanted one of dotnet10, ",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", architectures=["ppc"]))',
            "architectures.0: wanted 'x86_64' or 'arm64', found 'ppc'",
        ),
        (
            f'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", architectures=["{OTHER}"]))',
            f'architectures: wanted ["{host_architecture()}"], what this host is',
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", layers=["gone"]))',
            "layers.0: wanted a folder or a .zip file, found nothing at ",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", file_system_configs='
            '[{"folder": "gone", "local_mount_path": "/mnt/a"}]))',
            "file_system_configs.0.folder: wanted a folder, found none at ",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", handler="x", code=".", runtime="provided.al2023"))',
            "code: wanted an executable `bootstrap` in the package or a layer",
        ),
        (
            'app.map(Sqs("q"), to=Function("g", image="gone.tar"))',
            "image: wanted a folder with an OCI layout, or a tar of `docker save`, found nothing at",
        ),
        ('app.map(Sqs("q"), to=Function("g", code="."))', 'handler: wanted "module.function"'),
        (
            'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", environment={"_X": "1"}))',
            "environment: wanted",
        ),
    ],
)
def test_one_wrong_thing_is_one_clear_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "broken.py").write_text("def h(:\n")
    lines = said(tmp_path, HEAD + line + "\n")
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert lines[0].startswith("app.py:8"), lines[0]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    lines = said(
        tmp_path,
        HEAD + 'app.map(Sqs("q", batch_size=0, maximum_concurrency=1), to="nobody",'
        ' filters=[{"body": "x"}, "no"])\n'
        'app.map(Sqs("r", batching_window=301), to=handle)\n',
    )
    fields = [line.split(": ")[1] for line in lines]
    assert sorted(fields) == sorted(
        ["to", "batch_size", "maximum_concurrency", "filters.0.body", "filters.1", "batching_window"]
    )


def test_a_secret_value_is_not_repeated(tmp_path: Path) -> None:
    lines = said(
        tmp_path,
        HEAD + 'app.map(Sqs("q"), to=Function("g", handler="app.h", code=".", environment={"TOKEN": 5}))\n',
    )
    assert lines[0].endswith("found a value of the wrong form")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def (:\n", "app.py:1: import: wanted a file that can be imported, found SyntaxError"),
        (
            "import nowhere\n",
            "app.py:1: import: wanted a file that can be imported, found ModuleNotFoundError",
        ),
        (
            "x = 1\ny = x / 0\n",
            "app.py:2: import: wanted a file that can be imported, found ZeroDivisionError",
        ),
        ("import sys\nsys.exit(3)\n", "found SystemExit"),
        ("import os\nos._exit(3)\n", "it ended with status 3 before it was imported"),
        ("x = 1\n", "App: wanted one App in the file's globals, found none"),
        ("from millstream import App\na = App('a')\nb = App('b')\n", "found a, b"),
    ],
)
def test_a_file_that_declares_no_app_is_one_clear_line(tmp_path: Path, source: str, says: str) -> None:
    lines = said(tmp_path, source)
    assert len(lines) == 1
    assert says in lines[0]


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidConfiguration, match="wanted a Python file that declares an App, found no such file"
    ):
        load(tmp_path / "nowhere.py")


def test_user_code_is_not_imported_into_the_daemon(tmp_path: Path) -> None:
    plan(tmp_path, HEAD + "import sys, pathlib\npathlib.Path(__file__).with_name('ran').write_text('x')\n")
    assert (tmp_path / "ran").exists()
    import sys

    assert "app" not in sys.modules


def test_what_the_file_prints_does_not_disturb(tmp_path: Path) -> None:
    assert plan(tmp_path, HEAD + "print('x' * 200_000)\n").app == "orders"


def test_a_zip_file_is_a_package(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr("g.py", "def h(event, context): ...\n")
    source = 'app.map(Sqs("q"), to=Function("g", handler="g.h", code="g.zip"))\n'
    assert set(plan(tmp_path, HEAD + source).functions) == {"handle", "g"}
