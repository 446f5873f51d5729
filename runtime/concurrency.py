"""How many invocations may run at once: the account's limit and what functions reserve of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from millstream.contract.functions import FunctionSpec, Throttled

ACCOUNT = "ConcurrentInvocationLimitExceeded"
RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
"""Reasons of a throttle. Source: AWS, Invoke, TooManyRequestsException."""

RETRY_AFTER_S = 0.5


class ConcurrencyLedger:
    """Counts running invocations. A reservation is a cap, and keeps its share free of all others.

    Source: AWS, "Understanding Lambda function scaling".
    """

    def __init__(self, account_limit: int, functions: Iterable[FunctionSpec] = ()) -> None:
        reserved = sum(function.reserved_concurrency or 0 for function in functions)
        self._pool = max(account_limit - reserved, 0)
        self._in_pool = 0
        self._running: dict[str, int] = {}

    def take(self, function: FunctionSpec) -> Throttled | None:
        """Count one more invocation; why it may not run. None: it may, and `give` must follow."""
        running = self._running.get(function.name, 0)
        if function.reserved_concurrency is None:
            if self._in_pool >= self._pool:
                return Throttled(ACCOUNT, RETRY_AFTER_S)
            self._in_pool += 1
        elif running >= function.reserved_concurrency:
            return Throttled(RESERVED, RETRY_AFTER_S)
        self._running[function.name] = running + 1
        return None

    def give(self, function: FunctionSpec) -> None:
        """The invocation ended."""
        self._running[function.name] -= 1
        if function.reserved_concurrency is None:
            self._in_pool -= 1

    def running(self, function: str) -> int:
        """Invocations of a function that run now."""
        return self._running.get(function, 0)
