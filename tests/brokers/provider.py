"""Where the tests' brokers come from: processes of this machine, or containers.

`MILLSTREAM_TEST_BROKERS=local` or `containers` names one; without it a broker is local where it can be, else
a container. Where neither can be, its tests are skipped with the reasons, and fail where CI is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

VARIABLE = "MILLSTREAM_TEST_BROKERS"
PROVIDERS = ("local", "containers")

T = TypeVar("T")


class Unavailable(Exception):
    """A provider cannot have this broker here; says what was wanted, and what was found."""


class Server(Protocol):
    """One broker, a process or a container; keeps its files and ports when it is ended and started again."""

    def start(self) -> None: ...
    def running(self) -> bool: ...
    def stop(self) -> None: ...

    def kill(self) -> None:
        """End it with SIGKILL, as a host that loses its power would."""

    def pause(self) -> None:
        """It does nothing from now on, and its connections stay open."""

    def resume(self) -> None: ...

    def remove(self) -> None:
        """End it for good; its files need not stay."""

    def log(self) -> str: ...


def providers() -> tuple[str, ...]:
    """Those that may be asked, in order."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return PROVIDERS
    if named not in PROVIDERS:
        raise pytest.UsageError(f"{VARIABLE}: local or containers, got {named}")
    return (named,)


def provided(broker: str, *, local: Callable[[], T], containers: Callable[[], T]) -> T:
    """What the first provider that can have it makes. Else skips the test, or fails it where CI is set."""
    makers = {"local": local, "containers": containers}
    reasons = []
    for name in providers():
        try:
            return makers[name]()
        except Unavailable as error:
            reasons.append(str(error))
    why = f"{broker}: {'; '.join(reasons)}"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
