"""The second argument of a handler. Source: AWS, "AWS Lambda context object in Python"."""

from __future__ import annotations

import sys
import time
from typing import Any


class CognitoIdentity:
    """Who called by a mobile SDK: nobody."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id = None
        self.cognito_identity_pool_id = None

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class LambdaContext:
    """Tells a handler of its function and of the invocation."""

    def __init__(self, about: dict[str, Any], request_id: str, deadline_ms: int) -> None:
        self.aws_request_id = request_id
        self.log_group_name = about["log_group_name"]
        self.log_stream_name = about["log_stream_name"]
        self.function_name = about["function_name"]
        self.memory_limit_in_mb = about["memory_limit_in_mb"]
        self.function_version = about["function_version"]
        self.invoked_function_arn = about["invoked_function_arn"]
        self.tenant_id = None
        self.client_context = None
        self.identity = CognitoIdentity()
        self._epoch_deadline_time_in_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function times out."""
        return max(self._epoch_deadline_time_in_ms - int(time.time() * 1000), 0)

    def w3c(self) -> dict[str, str]:
        """The fields of a W3C trace context that came in a client context: none, for there is none."""
        return {}

    def log(self, msg: object) -> None:
        """Write to the log, with no line end."""
        sys.stdout.write(str(msg))

    def __repr__(self) -> str:
        return _shown(self, REPRESENTED)


REPRESENTED = (
    "aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb",
    "function_version", "invoked_function_arn", "client_context", "identity", "tenant_id",
)  # fmt: skip


def _shown(value: object, names: tuple[str, ...]) -> str:
    return f"{type(value).__name__}([{','.join(f'{name}={getattr(value, name)}' for name in names)}])"
