"""What each kind of runtime starts inside a sandbox, and what a package must bring for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from millstream.contract.errors import Problem
from millstream.functions.contents import Contents
from millstream.functions.interpreters import Installed

TASK, OPT = "/var/task", "/opt"

HEAP_SHARE = 0.8
"""Of a Java function's memory; the rest is for its threads, its code and its buffers."""

FIRST_HEAP_SHARE = 1 / 16
"""What of its memory the heap begins with. By itself Java would take 1/64 of the host's, and at once."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a function of a runtime is started. Without a command, by our own bootstrap."""

    interpreter: Path | None = None
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A function that a command is wanted for. `code` and `layers` are what it will see."""

    version: str
    handler: str
    memory_mb: int
    program: Installed | None  # None: the runtime needs none
    code: Contents
    layers: Sequence[Contents]

    def launch(self, *arguments: str, **variables: str) -> Launch:
        """The program with arguments."""
        assert self.program is not None
        return Launch(self.program.prefix, (self.program.inside, *arguments), variables)

    def folder_with(self, name: str, in_layers: Sequence[str], in_task: Sequence[str] = ("",)) -> str | None:
        """The folder, as the sandbox has it, of the package or else of a layer, that holds a file."""
        for folder in in_task:
            if self.code.has(str(PurePosixPath(folder, name))):
                return str(PurePosixPath(TASK, folder))
        for folder in in_layers:
            if any(layer.has(str(PurePosixPath(folder, name))) for layer in self.layers):
                return str(PurePosixPath(OPT, folder))
        return None

    def read(self, path: str) -> bytes | None:
        """A file by its path in the sandbox; of several layers that have it, the last one's."""
        place = PurePosixPath(path)
        if place.is_relative_to(TASK):
            return self.code.read(str(place.relative_to(TASK)))
        name = str(place.relative_to(OPT))
        return next((data for each in reversed(self.layers) if (data := each.read(name)) is not None), None)


def python_command(wanted: Wanted) -> Launch | Problem:
    """Another Python than the daemon's: awslambdaric, which the package brings.

    Source: AWS, "Deploy Python Lambda functions with container images", and sys.path of its runtimes.
    """
    site = f"python/lib/python{wanted.version}/site-packages"
    if wanted.folder_with("awslambdaric/__main__.py", (site, "python")) is None:
        how = "awslambdaric in the package or a layer: `pip install awslambdaric -t FOLDER`"
        return Problem("", "code", how, "none")
    path = f"{TASK}:{OPT}/{site}:{OPT}/python"
    return wanted.launch("-m", "awslambdaric", wanted.handler, PYTHONPATH=path)


def nodejs_command(wanted: Wanted) -> Launch | Problem:
    """aws-lambda-ric, at the file that its package.json names.

    Source: AWS, "Deploy Node.js Lambda functions with container images", and NODE_PATH of its runtimes.
    """
    own = f"nodejs/node{wanted.version}/node_modules"
    package = "aws-lambda-ric"
    folder = wanted.folder_with(f"{package}/package.json", (own, "nodejs/node_modules"), ("node_modules",))
    start = None if folder is None else _bin(wanted.read(f"{folder}/{package}/package.json"), package)
    if start is None:
        how = "aws-lambda-ric in the package or a layer: `npm install aws-lambda-ric`"
        return Problem("", "code", how, "none")
    runtime = "/var/runtime/node_modules:/var/runtime"
    path = f"{OPT}/{own}:{OPT}/nodejs/node_modules:{runtime}:{TASK}"
    return wanted.launch(f"{folder}/{package}/{start}", wanted.handler, NODE_PATH=path)


def _bin(package: bytes | None, name: str) -> str | None:
    """The program that a package.json declares."""
    try:
        declared = json.loads(package or b"null")
    except (ValueError, RecursionError):
        return None
    programs = declared.get("bin") if isinstance(declared, dict) else None
    found = programs.get(name) if isinstance(programs, dict) else programs
    return str(PurePosixPath(found)) if isinstance(found, str) else None


def java_command(wanted: Wanted) -> Launch | Problem:
    """The runtime interface client's main class, from a jar in lib/ or from the package itself.

    Source: AWS, "Deploy Java Lambda functions with container images", "Customize Java runtime startup
    behavior".
    """
    client = "aws-lambda-java-runtime-interface-client"
    main = "com.amazonaws.services.lambda.runtime.api.client.AWSLambda"
    jar = [wanted.code.beside("lib", lambda name: name.startswith(client) and name.endswith(".jar"))]
    jar += [layer.beside("java/lib", lambda name: name.startswith(client)) for layer in wanted.layers]
    if not any(jar) and not wanted.code.has(f"{main.replace('.', '/')}.class"):
        how = f"{client} in the package or a layer: a dependency of com.amazonaws:{client}"
        return Problem("", "code", how, "none")
    heap = [f"-Xms{int(wanted.memory_mb * FIRST_HEAP_SHARE)}m", f"-Xmx{int(wanted.memory_mb * HEAP_SHARE)}m"]
    path = f"{TASK}:{TASK}/lib/*:{OPT}/java/lib/*"
    options = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *heap)
    return wanted.launch(*options, "-cp", path, main, wanted.handler)


def ruby_command(wanted: Wanted) -> Launch | Problem:
    """aws_lambda_ric of the package's bundle or of a layer.

    Source: AWS, "Working with layers for Ruby Lambda functions", and GEM_PATH of its runtimes.
    """
    bundle, gems = f"vendor/bundle/ruby/{wanted.version}.0", f"ruby/gems/{wanted.version}.0"
    folder = wanted.folder_with("bin/aws_lambda_ric", (gems,), (bundle, ""))
    if folder is None:
        how = "aws_lambda_ric in the package's bundle or a layer: `bundle add aws_lambda_ric`"
        return Problem("", "code", how, "none")
    variables = {
        "GEM_PATH": f"{TASK}/{bundle}:{OPT}/{gems}",
        "RUBYLIB": f"{TASK}:/var/runtime/lib:{OPT}/ruby/lib",
    }
    return wanted.launch(f"{folder}/bin/aws_lambda_ric", wanted.handler, **variables)


def dotnet_command(wanted: Wanted) -> Launch | Problem:
    """An executable assembly, or a class library and the support assembly that runs it.

    Source: AWS, "Define Lambda function handler in C#", executable assembly and class library handlers.
    """
    assert wanted.program is not None
    root = {"DOTNET_ROOT": str(PurePosixPath(wanted.program.inside).parent)}
    assembly, library, _ = wanted.handler.partition(":")
    if not library:
        name = assembly if assembly.endswith(".dll") else f"{assembly}.dll"
        if wanted.code.has(name):
            return wanted.launch("exec", f"{TASK}/{name}", **root)
        if wanted.code.executable(assembly):
            return Launch(wanted.program.prefix, (f"{TASK}/{assembly}",), root)
        return Problem("", "handler", f"an assembly {name} in the package", "none")
    support = "Amazon.Lambda.RuntimeSupport.dll"
    folder = wanted.folder_with(support, ("dotnet", ""))
    if folder is None:
        how = f"{support} in the package or a layer, or an executable assembly as the handler"
        return Problem("", "code", how, "none")
    files = {"--depsfile": f"{assembly}.deps.json", "--runtimeconfig": f"{assembly}.runtimeconfig.json"}
    missing = [name for name in files.values() if not wanted.code.has(name)]
    if missing:
        return Problem("", "handler", f"{', '.join(files.values())} in the package", f"no {missing[0]}")
    options = [word for option, name in files.items() for word in (option, f"{TASK}/{name}")]
    return wanted.launch("exec", *options, f"{folder}/{support}", wanted.handler, **root)


def provided_command(wanted: Wanted) -> Launch | Problem:
    """The `bootstrap` of the package, or else of a layer. Source: AWS, "Building a custom runtime"."""
    name = "bootstrap"
    if wanted.code.has(name):
        folder, runs = TASK, wanted.code.executable(name)
    else:
        has = [layer for layer in wanted.layers if layer.has(name)]
        folder, runs = OPT, bool(has) and has[-1].executable(name)
        if not has:
            found = f"Runtime.InvalidEntrypoint: no {TASK}/{name}, no {OPT}/{name}"
            return Problem("", "code", "an executable `bootstrap` in the package or a layer", found)
    if not runs:
        found = f"{folder}/{name} without the permission (chmod +x)"
        return Problem("", "code", "a `bootstrap` that may be executed", found)
    return Launch(command=(f"{folder}/{name}",))
