"""What each runtime starts, and what is said where a package lacks what it needs."""

from __future__ import annotations

import json
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from millstream.contract.errors import Problem
from millstream.functions.commands import Launch, Wanted
from millstream.functions.contents import Contents
from millstream.functions.interpreters import Installed
from millstream.functions.runtimes import RUNTIMES, check_runtime, default_runtime

LANG = Path("/somewhere/installed")
CLIENT = "com/amazonaws/services/lambda/runtime/api/client/AWSLambda.class"
MAIN = CLIENT.removesuffix(".class").replace("/", ".")
RIC = json.dumps({"bin": {"aws-lambda-ric": "./bin/index.mjs"}})


def launch(
    folder: Path,
    runtime: str,
    code: dict[str, str],
    layers: tuple[dict[str, str], ...] = (),
    *,
    handler: str = "app.handler",
    zipped: bool = False,
) -> Launch | Problem:
    """What a runtime makes of a package and its layers; names that end in `*` are executable."""
    made = RUNTIMES[runtime]
    program = Installed(LANG, "/var/lang/bin/program") if made.interpreter else None
    sources = [write(folder / str(index), files, zipped) for index, files in enumerate((code, *layers))]
    contents = [Contents(source) for source in sources]
    wanted = Wanted(made.version, handler, 512, program, contents[0], contents[1:])
    try:
        return made.command(wanted)
    finally:
        for each in contents:
            each.close()


def write(place: Path, files: dict[str, str], zipped: bool) -> Path:
    for name, text in files.items():
        path = place / name.removesuffix("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.endswith("*") else 0o644)
    place.mkdir(exist_ok=True)
    if not zipped:
        return place
    with zipfile.ZipFile(place.with_suffix(".zip"), "w") as archive:
        for path in place.rglob("*"):
            archive.write(path, path.relative_to(place))
    return place.with_suffix(".zip")


GOOD: list[tuple[str, dict[str, str], tuple[dict[str, str], ...], str, tuple[str, ...]]] = [
    (
        "nodejs20.x",
        {"node_modules/aws-lambda-ric/package.json": RIC},
        (),
        "index.handler",
        ("/var/lang/bin/program", "/var/task/node_modules/aws-lambda-ric/bin/index.mjs", "index.handler"),
    ),
    (
        "nodejs22.x",
        {},
        ({"nodejs/node_modules/aws-lambda-ric/package.json": '{"bin": "./index.mjs"}'},),
        "index.handler",
        ("/var/lang/bin/program", "/opt/nodejs/node_modules/aws-lambda-ric/index.mjs", "index.handler"),
    ),
    (
        "nodejs18.x",
        {},
        ({"nodejs/node18/node_modules/aws-lambda-ric/package.json": RIC},),
        "i.h",
        ("/var/lang/bin/program", "/opt/nodejs/node18/node_modules/aws-lambda-ric/bin/index.mjs", "i.h"),
    ),
    (
        "python3.9",
        {"awslambdaric/__main__.py": ""},
        (),
        "app.handler",
        ("/var/lang/bin/program", "-m", "awslambdaric", "app.handler"),
    ),
    (
        "python3.14",
        {},
        ({"python/lib/python3.14/site-packages/awslambdaric/__main__.py": ""},),
        "app.handler",
        ("/var/lang/bin/program", "-m", "awslambdaric", "app.handler"),
    ),
    *(
        (
            "java17",
            code,
            layers,
            "example.Handler::handle",
            (
                "/var/lang/bin/program",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xms32m",
                "-Xmx409m",
                "-cp",
                "/var/task:/var/task/lib/*:/opt/java/lib/*",
                MAIN,
                "example.Handler::handle",
            ),
        )
        for code, layers in [
            ({CLIENT: ""}, ()),
            ({"lib/aws-lambda-java-runtime-interface-client-2.6.0.jar": ""}, ()),
            ({}, ({"java/lib/aws-lambda-java-runtime-interface-client-2.6.0.jar": ""},)),
        ]
    ),
    (
        "ruby3.3",
        {"vendor/bundle/ruby/3.3.0/bin/aws_lambda_ric*": ""},
        (),
        "app.handler",
        ("/var/lang/bin/program", "/var/task/vendor/bundle/ruby/3.3.0/bin/aws_lambda_ric", "app.handler"),
    ),
    (
        "ruby3.4",
        {},
        ({"ruby/gems/3.4.0/bin/aws_lambda_ric": ""},),
        "app.handler",
        ("/var/lang/bin/program", "/opt/ruby/gems/3.4.0/bin/aws_lambda_ric", "app.handler"),
    ),
    ("dotnet8", {"App.dll": ""}, (), "App", ("/var/lang/bin/program", "exec", "/var/task/App.dll")),
    ("dotnet8", {"App*": ""}, (), "App", ("/var/task/App",)),
    (
        "dotnet10",
        {"A.deps.json": "", "A.runtimeconfig.json": "", "Amazon.Lambda.RuntimeSupport.dll": ""},
        (),
        "A::A.F::Handle",
        (
            "/var/lang/bin/program",
            "exec",
            "--depsfile",
            "/var/task/A.deps.json",
            "--runtimeconfig",
            "/var/task/A.runtimeconfig.json",
            "/var/task/Amazon.Lambda.RuntimeSupport.dll",
            "A::A.F::Handle",
        ),
    ),
    ("provided.al2023", {"bootstrap*": ""}, ({"bootstrap*": ""},), "any", ("/var/task/bootstrap",)),
    ("provided.al2", {}, ({"bootstrap*": ""},), "any", ("/opt/bootstrap",)),
]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("runtime", "code", "layers", "handler", "command"), GOOD)
def test_a_runtime_becomes_a_command(
    tmp_path: Path,
    runtime: str,
    code: dict[str, str],
    layers: tuple[dict[str, str], ...],
    handler: str,
    command: tuple[str, ...],
    zipped: bool,
) -> None:
    found = launch(tmp_path, runtime, code, layers, handler=handler, zipped=zipped)
    assert isinstance(found, Launch), found
    assert found.command == command
    assert found.interpreter == (LANG if RUNTIMES[runtime].interpreter else None)


@pytest.mark.parametrize(
    ("runtime", "code", "handler", "field", "says"),
    [
        ("nodejs20.x", {}, "i.h", "code", "npm install aws-lambda-ric"),
        ("nodejs20.x", {"node_modules/aws-lambda-ric/package.json": "{"}, "i.h", "code", "npm install"),
        ("nodejs20.x", {"node_modules/aws-lambda-ric/package.json": "[]"}, "i.h", "code", "npm install"),
        (
            "nodejs20.x",
            {"node_modules/aws-lambda-ric/package.json": "[" * 100_000},
            "i.h",
            "code",
            "npm install",
        ),
        ("python3.9", {}, "i.h", "code", "pip install awslambdaric -t FOLDER"),
        ("java21", {"lib/other.jar": ""}, "i::h", "code", "aws-lambda-java-runtime-interface-client"),
        ("ruby3.2", {}, "i.h", "code", "bundle add aws_lambda_ric"),
        ("dotnet6", {}, "App", "handler", "an assembly App.dll in the package"),
        ("dotnet6", {}, "A::B::C", "code", "Amazon.Lambda.RuntimeSupport.dll in the package or a layer"),
        ("dotnet6", {"Amazon.Lambda.RuntimeSupport.dll": ""}, "A::B::C", "handler", "A.deps.json, A.runtime"),
        ("provided.al2", {"bootstrap": ""}, "x", "code", "a `bootstrap` that may be executed"),
        ("provided.al2", {}, "x", "code", "an executable `bootstrap` in the package or a layer"),
    ],
)
def test_what_a_package_lacks_is_one_line_that_says_how_to_get_it(
    tmp_path: Path, runtime: str, code: dict[str, str], handler: str, field: str, says: str
) -> None:
    found = launch(tmp_path, runtime, code, handler=handler)
    assert isinstance(found, Problem), found
    assert found.field == field
    assert says in found.wanted


def test_a_missing_bootstrap_is_named_as_aws_names_it(tmp_path: Path) -> None:
    found = launch(tmp_path, "provided.al2023", {})
    assert isinstance(found, Problem)
    assert found.found == "Runtime.InvalidEntrypoint: no /var/task/bootstrap, no /opt/bootstrap"


def test_node_and_ruby_look_for_modules_where_aws_has_them(tmp_path: Path) -> None:
    node = launch(tmp_path / "n", "nodejs20.x", {"node_modules/aws-lambda-ric/package.json": RIC})
    ruby = launch(tmp_path / "r", "ruby3.3", {"bin/aws_lambda_ric": ""})
    assert isinstance(node, Launch)
    assert isinstance(ruby, Launch)
    assert node.variables == {
        "NODE_PATH": "/opt/nodejs/node20/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules"
        ":/var/runtime:/var/task"
    }
    assert ruby.variables["GEM_PATH"] == "/var/task/vendor/bundle/ruby/3.3.0:/opt/ruby/gems/3.3.0"


@pytest.mark.parametrize(
    ("runtime", "says"),
    [("python3.1", "python3.1"), ("nodejs20", "nodejs20.x?"), ("go1.x", "one of")],
)
def test_an_unknown_runtime_is_one_line_with_the_nearest(runtime: str, says: str) -> None:
    problem = check_runtime(runtime)
    assert problem is not None
    assert says in problem.wanted


def test_every_runtime_of_aws_is_known_and_so_is_the_daemons_own() -> None:
    names = (
        "nodejs16.x nodejs18.x nodejs20.x nodejs22.x nodejs24.x python3.9 python3.10 python3.11 python3.12"
    )
    names += " python3.13 python3.14 java8.al2 java11 java17 java21 java25 dotnet6 dotnet8 dotnet10"
    names += " ruby3.2 ruby3.3 ruby3.4 provided.al2 provided.al2023"
    assert set(names.split()) == set(RUNTIMES)
    assert check_runtime(default_runtime()) is None


def test_a_later_layers_file_is_the_one_that_is_read(tmp_path: Path) -> None:
    sources = [write(tmp_path / str(n), {"f": str(n)}, zipped=bool(n)) for n in range(2)]
    with closing(Contents(sources[0])) as first, closing(Contents(sources[1])) as second:
        assert Wanted("", "", 128, None, first, [first, second]).read("/opt/f") == b"1"
