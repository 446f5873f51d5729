"""A function as the runtime sees it, and what an invocation of it can answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
"""Largest request of a synchronous invocation. Source: AWS, "Lambda quotas"."""

MAX_RESPONSE_BYTES = MAX_PAYLOAD_BYTES + 100
"""Largest response, 6,291,556 bytes as recorded in AWS's own error text."""


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One deployed function version: what an execution environment is made from."""

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


Outcome: TypeAlias = Success | FunctionFailed | Throttled
