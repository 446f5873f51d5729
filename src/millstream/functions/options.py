"""What can be declared of a function, with AWS's names and limits."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from millstream.contract.functions import FunctionSpec
from millstream.contract.options import Options, shown

ENVIRONMENT_BYTES = 4096
"""Size of all environment variables, names and values. Source: AWS, "Lambda quotas"."""

RESERVED_VARIABLES = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)
"""Source: AWS, "Defined runtime environment variables"."""

_VARIABLE = re.compile(r"[a-zA-Z]([a-zA-Z0-9_])+")


def _environment(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                f"names of letters, digits and underscores that begin with a letter, not {shown(name)}"
            )
        if name in RESERVED_VARIABLES:
            raise ValueError(f"no name that the runtime sets itself, such as {name}")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
    if size > ENVIRONMENT_BYTES:
        raise ValueError(f"at most {ENVIRONMENT_BYTES} bytes of names and values, not {size}")
    return variables


class FunctionOptions(Options):
    """Options of one function. Sizes in MB, durations in seconds. Source: AWS, CreateFunction."""

    name: str = Field(
        pattern=r"^[a-zA-Z0-9-_]{1,64}$", description="1 to 64 letters, digits, hyphens or underscores"
    )
    handler: str = Field(pattern=r"^[^\s]{1,128}$", description='"module.function", at most 128 characters')
    code: str = Field(min_length=1, description="a folder or a .zip file")
    runtime: str | None = Field(default=None, description='a runtime such as "python3.11"')
    memory_size: int = Field(
        default=128, ge=128, le=10240, description="a whole number of MB from 128 to 10240"
    )
    timeout: int = Field(default=3, ge=1, le=900, description="a whole number of seconds from 1 to 900")
    ephemeral_storage: int = Field(
        default=512, ge=512, le=10240, description="a whole number of MB from 512 to 10240"
    )
    environment: Annotated[dict[str, str], AfterValidator(_environment)] = Field(default_factory=dict)
    reserved_concurrent_executions: int | None = Field(
        default=None, ge=0, description="a whole number, 0 or more"
    )


SECRET_FIELDS = frozenset({"environment"})
"""Options whose values no message repeats."""


def qualified(function: FunctionSpec) -> str:
    """The function's ARN with its version."""
    return f"{function.arn}:{function.version}"
