"""What a bootstrap is told: the environment variables and the context of a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millstream.contract.functions import FunctionSpec
from millstream.runtime.processes import Places


def initialization_type(function: FunctionSpec) -> str:
    """As the functions see it. Source: AWS, "Working with Lambda environment variables"."""
    return "snap-start" if function.snap_start else "on-demand"


def bootstrap_config(function: FunctionSpec, stream: str, places: Places) -> dict[str, Any]:
    """The configuration frame. `stream` is the environment's 32 hex digits."""
    group = f"/aws/lambda/{function.name}"
    day = datetime.now(UTC).strftime("%Y/%m/%d")
    log_stream = f"{day}/[{function.version}]{stream}"
    return {
        "handler": function.handler,
        "task_root": places.task_root,
        "paths": list(places.paths),
        "limits": dict(places.limits),
        "environment": _variables(function, group, log_stream, places),
        "context": {
            "function_name": function.name,
            "function_version": function.version,
            "invoked_function_arn": function.arn,
            "memory_limit_in_mb": str(function.memory_size_mb),
            "log_group_name": group,
            "log_stream_name": log_stream,
        },
    }


def _variables(function: FunctionSpec, group: str, log_stream: str, places: Places) -> dict[str, str]:
    """Source: AWS, "Working with Lambda environment variables", defined runtime environment variables."""
    temporary = {} if places.temporary == "/tmp" else {"TMPDIR": places.temporary}
    return {
        **temporary,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/task/lib:/opt/lib",
        "PYTHONPATH": ":".join(places.paths),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_LOG_GROUP_NAME": group,
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        **function.environment,
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
