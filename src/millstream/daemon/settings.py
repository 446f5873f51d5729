"""Settings of one daemon, read once: flags, then MILLSTREAM_* variables, then these defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from localstack_client.config import get_service_endpoint

from millstream.contract.errors import InvalidConfiguration, Problem

DEFAULT_REGION = "us-east-1"
DEFAULT_ACCOUNT = "000000000000"
"""The account in the ARNs of functions, which are nobody's on AWS."""

DRAIN_S = 30.0
"""How long a soft stop waits for invocations; the visibility timeout of a new SQS queue."""

IDLE_S = 300.0
"""How long an unused execution environment is kept."""

MAX_AGE_S = 7200.0
"""How long an execution environment is used, about, however busy it is."""

FREEZE_AFTER_S = 0.05
"""How long an execution environment goes on without an invocation before it is frozen."""

CONCURRENCY = 1000
"""Concurrent executions of all functions. Source: AWS, "Lambda quotas"."""

BUFFER_MB = 256
"""What of streams is read ahead and held in memory, all partitions of a daemon together."""


LOG_MAX_MB = 20
"""Limits of the disk space that the log of a function may take."""

FunctionLogsTo: TypeAlias = Literal["files", "json", "both"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds. `endpoint_url` None: by boto3's own chain, AWS_ENDPOINT_URL included."""

    data_dir: Path = Path(".millstream")
    endpoint_url: str | None = None
    region: str = DEFAULT_REGION
    account_id: str = DEFAULT_ACCOUNT
    isolation: str = "bwrap"
    concurrency: int = CONCURRENCY
    drain_s: float = DRAIN_S
    idle_s: float = IDLE_S
    max_age_s: float = MAX_AGE_S
    freeze_after_s: float | None = FREEZE_AFTER_S  # None: never
    memory_mb: int | None = None  # of all environments. None: three quarters of what is free at start
    store: str | None = None  # URL of a shared store. None: SQLite in the data directory
    buffer_mb: int = BUFFER_MB
    function_logs: FunctionLogsTo = "files"  # json: one object a line on standard output
    log_max_mb: int = LOG_MAX_MB  # of each function
    log_max_days: float | None = None  # how old lines may become. None: as old as that allows


def localstack_endpoint() -> str:
    """Where LocalStack, or a drop-in for it, listens; also gives boto3 the credentials it takes."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
    return str(get_service_endpoint("sqs"))


def aws_region() -> str:
    """The region by boto3's own chain, or the default."""
    from botocore.session import get_session  # slow to import, and not every command needs it

    return str(get_session().get_config_variable("region") or DEFAULT_REGION)


def named_runtimes(flags: Iterable[str]) -> dict[str, Path]:
    """Interpreters by runtime: flags as `nodejs20.x=/path/to/node`, then MILLSTREAM_RUNTIME_NODEJS20_X.

    Raises:
        InvalidConfiguration: with each flag or variable that names no runtime, or no path.
    """
    from millstream.contract.options import unknown_option  # slow to import, and not every command needs it
    from millstream.functions.runtimes import RUNTIMES, VARIABLE

    variables = {runtime.variable: name for name, runtime in RUNTIMES.items() if runtime.interpreter}
    known = set(variables.values())
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for variable, path in os.environ.items():
        if not variable.startswith(VARIABLE):
            continue
        if variable not in variables:
            problems.append(unknown_option(variable, list(variables)))
        elif path:
            found[variables[variable]] = Path(path)
    for flag in flags:
        name, equals, path = flag.partition("=")
        if not equals or not path:
            problems.append(Problem("", "--runtime", "NAME=PATH", repr(flag)))
        elif name not in known:
            near = unknown_option(name, list(known))
            problems.append(Problem("", "--runtime", near.wanted, repr(name)))
        else:
            found[name] = Path(path)
    if problems:
        raise InvalidConfiguration(problems)
    return found
