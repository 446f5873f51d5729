"""A function as the runtime sees it, and what an invocation of it can answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
"""Largest request of a synchronous invocation. Source: AWS, "Lambda quotas"."""

MAX_RESPONSE_BYTES = MAX_PAYLOAD_BYTES + 100
"""Largest response, 6,291,556 bytes as recorded in AWS's own error text."""


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked container image, with the function's overrides applied."""

    root: Path  # its file system, read-only
    command: tuple[str, ...]  # entry point and command, joined
    working_directory: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A folder of the host that a function sees, writable. Source: AWS, FileSystemConfig."""

    folder: Path
    local_mount_path: str  # /mnt/…


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """Source: AWS, LoggingConfig. The levels count with format JSON alone."""

    log_format: Literal["Text", "JSON"] = "Text"
    application_log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] = "INFO"
    system_log_level: Literal["DEBUG", "INFO", "WARN"] = "INFO"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One deployed function version: what an execution environment is made from.

    Without a `command` and an `image`, the project's own Python bootstrap runs the handler. With one of
    them, what they start speaks the Runtime API.
    """

    name: str
    arn: str  # unqualified
    handler: str  # "module.function" below `code`
    code: Path  # the deployed package, read-only; becomes /var/task
    runtime: str = "python3.11"
    version: str = "$LATEST"
    memory_size_mb: int = 128
    timeout_s: float = 3.0
    ephemeral_storage_mb: int = 512  # size of /tmp
    environment: Mapping[str, str] = field(default_factory=dict)
    reserved_concurrency: int | None = None  # None: none reserved. 0: every invocation is throttled
    region: str = "us-east-1"
    interpreter: Path | None = None  # root of an installation outside /usr, for /var/lang; None: the daemon's
    command: tuple[str, ...] = ()  # of the runtime, with paths as the sandbox has them
    variables: Mapping[str, str] = field(default_factory=dict)  # that the runtime needs: NODE_PATH …
    opt: Path | None = None  # the layers, merged in their order; becomes /opt
    image: Image | None = None
    file_system: FileSystem | None = None
    network: tuple[str, ...] = ()  # "aws", "host:port": all that it may reach
    logging: LoggingConfig = LoggingConfig()
    provisioned_concurrency: int = 0
    snap_start: bool = False  # loaded ahead, as a snapshot that each runtime is restored from


@dataclass(frozen=True, slots=True)
class Success:
    """The function answered. `payload` is its JSON, as it came."""

    payload: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class FunctionFailed:
    """The function raised, timed out, ran out of memory, exited or could not be loaded.

    `payload` is the error document that a caller of Invoke sees.
    Source: docs/compatibility.md, "Error payloads".
    """

    error_type: str
    message: str
    payload: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Not run: no concurrency was free, or the service could not start an environment.

    `reason` is AWS's Reason of a TooManyRequestsException, or "ServiceException".
    """

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Not run: the event is larger than an invocation may be.

    Source: AWS, "Lambda quotas", invocation payload.
    """

    size_bytes: int
    limit_bytes: int

    @property
    def message(self) -> str:
        """What a caller of Invoke is told."""
        return f"Request must be smaller than {self.limit_bytes} bytes for the InvokeFunction operation"


Outcome: TypeAlias = Success | FunctionFailed | Throttled | TooLarge
