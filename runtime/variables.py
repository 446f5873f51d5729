"""What a bootstrap is told: the environment variables and the context of a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millstream.contract.functions import FunctionSpec


def bootstrap_config(function: FunctionSpec, stream: str, task_root: str, paths: list[str]) -> dict[str, Any]:
    """The configuration frame. `stream` is the environment's 32 hex digits."""
    group = f"/aws/lambda/{function.name}"
    day = datetime.now(UTC).strftime("%Y/%m/%d")
    log_stream = f"{day}/[{function.version}]{stream}"
    return {
        "handler": function.handler,
        "task_root": task_root,
        "paths": paths,
        "environment": _variables(function, group, log_stream, task_root, paths),
        "context": {
            "function_name": function.name,
            "function_version": function.version,
            "invoked_function_arn": function.arn,
            "memory_limit_in_mb": str(function.memory_size_mb),
            "log_group_name": group,
            "log_stream_name": log_stream,
        },
    }


def _variables(
    function: FunctionSpec, group: str, log_stream: str, task_root: str, paths: list[str]
) -> dict[str, str]:
    """Source: AWS, "Working with Lambda environment variables", defined runtime environment variables."""
    return {
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/task/lib:/opt/lib",
        "PYTHONPATH": ":".join(paths),
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
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "LAMBDA_TASK_ROOT": task_root,
        "LAMBDA_RUNTIME_DIR": paths[-1] if paths else "/var/runtime",
    }
