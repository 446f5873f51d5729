"""What a SQL database must do to hold a state store; SQLite and PostgreSQL each have theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Values: TypeAlias = Mapping[str, str | float | bool | None]
"""What a statement's `:names` stand for."""


class Session(Protocol):
    """A transaction that runs, in the database's thread."""

    def rows(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """What a statement returns; nothing if it returns none."""

    def many(self, statement: str, values: Sequence[Values]) -> list[int]:
        """Run a statement once for each; how many rows each of them touched."""


class Database(Protocol):
    """Runs statements of `millstream.store.statements`; opened by its first call.

    Each call raises StateUnavailable where the database cannot be read or written.
    """

    async def one(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is a transaction of its own."""

    async def run(self, work: Callable[[Session], T]) -> T:
        """The answer of `work`, done in one transaction; it may be run again, so it only uses its session."""

    async def aclose(self) -> None:
        """Close after the calls that were made; those after it raise RuntimeError."""
