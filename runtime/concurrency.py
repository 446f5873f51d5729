"""How many invocations may run at once, and how often one may begin: by account and by function. Pure.

    account limit ─┬─ reserved of f ──── cap and guarantee ──┬─ provisioned of f
                   ├─ provisioned of g, which reserves nothing   └─ what is left is on demand
                   └─ unreserved pool: all else

Source: AWS, "Understanding Lambda function scaling", and Invoke, TooManyRequestsException.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from millstream.contract.errors import Problem
from millstream.contract.functions import FunctionSpec, Throttled
from millstream.runtime.rates import RateLimit

ACCOUNT = "ConcurrentInvocationLimitExceeded"
ACCOUNT_RATE = "FunctionInvocationRateLimitExceeded"
RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
RESERVED_RATE = "ReservedFunctionInvocationRateLimitExceeded"
"""Reasons of a throttle."""

INVOCATIONS_PER_CONCURRENCY = 10
"""Invocations a second, for each execution that may run at once. Source: AWS, "Lambda quotas"."""

SCALING_BURST = 1000
SCALING_PER_S = 100.0
"""New environments of one function: 1,000 every 10 s. Source: AWS, "Lambda scaling behavior"."""

UNRESERVED_MINIMUM = 100
"""What reservations must leave of an account's 1,000; of fewer, a tenth: AWS has no such accounts."""

RETRY_AFTER_S = 0.5
RETRY_RATE_S = 0.05
RETRY_NEVER_S = 10.0
"""Least waits before another try: for room, for a rate, and where nothing is ever let through."""

NEVER = Throttled(RESERVED, RETRY_NEVER_S)
FULL = Throttled(RESERVED, RETRY_AFTER_S)
ACCOUNT_FULL = Throttled(ACCOUNT, RETRY_AFTER_S)


class _Share:
    """What one function may take. `own` of its running invocations are not the pool's."""

    __slots__ = ("own", "rate", "reserved", "running", "scaling")

    def __init__(self, function: FunctionSpec, own: int) -> None:
        self.running = 0
        self.own = own
        self.reserved = function.reserved_concurrency
        self.rate = None if self.reserved is None else _rate(self.reserved)
        self.scaling = RateLimit(SCALING_PER_S, SCALING_BURST)


class ConcurrencyLedger:
    """Counts running invocations: one for all callers. O(1) an invocation.

    Of a function, as many invocations as it has provisioned are counted first, whether their
    environments are ready or not: a reservation that is all provisioned leaves nothing on demand.
    Functions that reserve nothing share one rate, of all that reservations leave.
    """

    def __init__(self, account_limit: int, functions: Iterable[FunctionSpec] = ()) -> None:
        functions = list(functions)
        self._shares = {function.name: _Share(function, _own(function)) for function in functions}
        unreserved = account_limit - sum(function.reserved_concurrency or 0 for function in functions)
        self._pool = max(unreserved - sum(share.own for share in self._shares.values()), 0)
        self._in_pool = 0
        self._rate = _rate(unreserved)

    def take(self, function: FunctionSpec, now: float) -> Throttled | None:
        """Count one more invocation; why it may not run. None: it may, and `give` must follow.

        `now` is monotonic.
        """
        share = self._shares.get(function.name) or self._share(function)
        running = share.running
        reserved = share.reserved
        if reserved is not None:
            if running >= reserved:
                return FULL if reserved else NEVER
            if share.rate is not None and (wait_s := share.rate.take(now)):
                return Throttled(RESERVED_RATE, max(wait_s, RETRY_RATE_S))
        else:
            pooled = running >= share.own
            if pooled and self._in_pool >= self._pool:
                return ACCOUNT_FULL
            if self._rate is not None and (wait_s := self._rate.take(now)):
                return Throttled(ACCOUNT_RATE, max(wait_s, RETRY_RATE_S))
            if pooled:
                self._in_pool += 1
        share.running = running + 1
        return None

    def give(self, function: FunctionSpec) -> None:
        """The invocation ended."""
        share = self._shares[function.name]
        running = share.running
        share.running = running - 1
        if share.reserved is None and running > share.own:
            self._in_pool -= 1

    def scale(self, function: FunctionSpec, now: float) -> Throttled | None:
        """Count a new environment of a function; why it may not be made yet.

        AWS names no reason of its own for this limit.
        """
        share = self._shares.get(function.name) or self._share(function)
        wait_s = share.scaling.take(now)
        return Throttled(ACCOUNT, max(wait_s, RETRY_RATE_S)) if wait_s else None

    def running(self, function: str) -> int:
        """Invocations of a function that run now."""
        share = self._shares.get(function)
        return share.running if share is not None else 0

    @property
    def in_pool(self) -> int:
        """Invocations that run in the unreserved pool."""
        return self._in_pool

    @property
    def pool(self) -> int:
        """How many may."""
        return self._pool

    def _share(self, function: FunctionSpec) -> _Share:
        """A function that was not named before takes part, with nothing of its own."""
        return self._shares.setdefault(function.name, _Share(function, 0))


def check_shares(account_limit: int, functions: Collection[FunctionSpec]) -> list[Problem]:
    """What is wrong with all that is reserved and provisioned, taken together."""
    reserved = sum(function.reserved_concurrency or 0 for function in functions)
    provisioned = sum(_own(function) for function in functions)
    least = _unreserved_minimum(account_limit, functions)
    left = account_limit - reserved - provisioned
    if not reserved + provisioned or left >= least:
        return []
    wanted = (
        f"at most {max(account_limit - least, 0)} reserved and provisioned by all functions together: "
        f"UnreservedConcurrentExecution must not be below its minimum value of [{least}]"
    )
    found = f"{reserved} reserved and {provisioned} provisioned of {account_limit}"
    return [Problem("", "--concurrency", wanted, found)]


def _own(function: FunctionSpec) -> int:
    """Provisioned concurrency that no reservation holds."""
    return function.provisioned_concurrency if function.reserved_concurrency is None else 0


def _unreserved_minimum(account_limit: int, functions: Collection[FunctionSpec]) -> int:
    """A small limit keeps a tenth; 1 at least, if there is a function that needs the pool to run at all."""
    if account_limit >= 10 * UNRESERVED_MINIMUM:
        return UNRESERVED_MINIMUM
    needed = any(f.reserved_concurrency is None and not f.provisioned_concurrency for f in functions)
    return max(account_limit // 10, int(needed))


def _rate(concurrency: int) -> RateLimit | None:
    """None: nothing may run, so that there is nothing to limit."""
    per_s = INVOCATIONS_PER_CONCURRENCY * concurrency
    return RateLimit(per_s, per_s) if per_s > 0 else None
