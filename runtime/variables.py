"""What a runtime is told: the environment variables and the context of a function."""

from __future__ import annotations

import contextlib
import os
import re
from datetime import UTC, datetime
from typing import Any

from millstream.contract.functions import FunctionSpec
from millstream.runtime.api.link import Program
from millstream.runtime.fresh import WRAPPER, why_fresh
from millstream.runtime.processes import Places

CUSTOM = "provided"
MANAGED_ALONE = ("AWS_EXECUTION_ENV", "PYTHONPATH")
"""Variables that custom runtimes and images are not given."""

LIBRARIES = "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"
"""Folders in which the loader looks for shared libraries. Source: recorded of AWS's runtimes."""

LAYERS = "_MILLSTREAM_LAYERS"
"""Tells `bootstrap/program.py` of the folders of layers; it takes it from the function's sight."""

FOLDER = "extensions"
EXTERNAL_AT_MOST = 11
"""External extensions that are started: one more than may register, so that its refusal is seen."""

NAME = re.compile(r"[!-.0-~]{1,128}")
HIDDEN = frozenset({
    "AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "LAMBDA_RUNTIME_DIR",
    "AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS", "LAMBDA_TASK_ROOT", "_AWS_XRAY_DAEMON_ADDRESS",
    "_AWS_XRAY_DAEMON_PORT", "_HANDLER",
})  # fmt: skip
"""What extensions are not given. Source: AWS, "Using the Lambda Extensions API to create extensions"."""


def initialization_type(function: FunctionSpec) -> str:
    """As the functions see it. Source: AWS, "Working with Lambda environment variables"."""
    if function.snap_start:
        return "snap-start"
    return "provisioned-concurrency" if function.provisioned_concurrency else "on-demand"


def bootstrap_config(function: FunctionSpec, stream: str, places: Places) -> dict[str, Any]:
    """The configuration frame. `stream` is the environment's 32 hex digits."""
    group, log_stream = _log_names(function, stream)
    variables = _variables(function, group, log_stream, places)
    variables["PYTHONPATH"] = places.placed(variables["PYTHONPATH"])
    if places.port:
        variables["AWS_LAMBDA_RUNTIME_API"] = _api(places)
    return {
        "handler": function.handler,
        "task_root": places.task_root,
        "layers": places.layers,
        "runtime": places.runtime,
        "limits": dict(places.limits),
        "snap_start": function.snap_start,
        "environment": variables,
        "context": {
            "function_name": function.name,
            "function_version": function.version,
            "invoked_function_arn": function.arn,
            "memory_limit_in_mb": str(function.memory_size_mb),
            "log_group_name": None if function.snap_start else group,
            "log_stream_name": None if function.snap_start else log_stream,
        },
    }


def program_of(function: FunctionSpec, stream: str, places: Places) -> Program | None:
    """What is started as the function's runtime. None: our own Python bootstrap."""
    command: tuple[str, ...] = function.command
    directory, own = places.task_root, function.variables
    if function.image is not None:
        command, directory, own = (
            function.image.command,
            function.image.working_directory,
            {**function.image.environment, **function.variables},
        )
    variables = _variables(function, *_log_names(function, stream), places)
    if not command and why_fresh(function):
        command, own = (places.python, places.start), {LAYERS: os.pathsep.join(places.layers), **own}
    if not command:
        return None
    if function.image is not None or function.runtime.startswith(CUSTOM):
        for name in MANAGED_ALONE:
            variables.pop(name, None)
    elif wrapper := function.environment.get(WRAPPER):
        command = (wrapper, *command)
    api = {"AWS_LAMBDA_RUNTIME_API": _api(places)}
    environment = {"HOME": places.temporary, **variables, **own, **function.environment, **api}
    if function.image is not None:
        return Program(command, environment, directory)
    placed = {name: places.placed(value) for name, value in environment.items()}
    return Program([places.placed(word) for word in command], placed, directory)


def external_extensions(function: FunctionSpec) -> list[str]:
    """Names of the executables in /opt/extensions, as this host finds them; at most EXTERNAL_AT_MOST."""
    opt = function.opt if function.image is None else function.image.root / "opt"
    if opt is None or not (opt / FOLDER).is_dir():
        return []
    with contextlib.suppress(OSError):
        files = (file for file in (opt / FOLDER).iterdir() if NAME.fullmatch(file.name))
        names = sorted(file.name for file in files if file.is_file() and file.stat().st_mode & 0o111)
        return names[:EXTERNAL_AT_MOST]
    return []


def extension_programs(function: FunctionSpec, stream: str, places: Places) -> dict[str, Program]:
    """What is started ahead of the runtime, by name."""
    own = {} if function.image is None else function.image.environment
    variables = _variables(function, *_log_names(function, stream), places)
    if function.image is not None or function.runtime.startswith(CUSTOM):
        for name in MANAGED_ALONE:
            variables.pop(name, None)
    variables = {"HOME": places.temporary, **variables, **own, **function.environment}
    variables["AWS_LAMBDA_RUNTIME_API"] = _api(places)
    given = {key: places.placed(value) for key, value in variables.items() if key not in HIDDEN}
    commands = {name: f"{places.opt}/{FOLDER}/{name}" for name in external_extensions(function)}
    return {name: Program([command], given, "/") for name, command in commands.items()}


def _api(places: Places) -> str:
    return f"127.0.0.1:{places.port}"


def _log_names(function: FunctionSpec, stream: str) -> tuple[str, str]:
    """Log group and stream."""
    day = datetime.now(UTC).strftime("%Y/%m/%d")
    return f"/aws/lambda/{function.name}", f"{day}/[{function.version}]{stream}"


def _logging(function: FunctionSpec) -> dict[str, str]:
    """Source: AWS, "Configuring advanced logging controls for your Lambda function"."""
    if function.logging.log_format != "JSON":
        return {}
    level = function.logging.application_log_level
    return {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": level}


def _variables(function: FunctionSpec, group: str, log_stream: str, places: Places) -> dict[str, str]:
    """Source: AWS, "Working with Lambda environment variables", defined runtime environment variables."""
    log = {"AWS_LAMBDA_LOG_GROUP_NAME": group, "AWS_LAMBDA_LOG_STREAM_NAME": log_stream}
    temporary = {} if places.temporary == "/tmp" else {"TMPDIR": places.temporary}
    return {
        **temporary,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "LD_LIBRARY_PATH": LIBRARIES,
        "PYTHONPATH": places.runtime,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        **({} if function.snap_start else log),  # Source: AWS, "Monitoring for Lambda SnapStart"
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        **function.variables,
        **function.environment,
        **_logging(function),
        "_HANDLER": function.handler,
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": initialization_type(function),
        "LAMBDA_TASK_ROOT": places.task_root,
        "LAMBDA_RUNTIME_DIR": places.runtime,
    }
