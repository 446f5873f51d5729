"""What readers of the data formats of schema registries have in common.

The schemas come from the registry, the data from whoever may write to the topic: what is read takes
time and memory by its own size, and none of it makes a reader recurse without end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec


class Unfit(Exception):
    """The data is not of its schema, or the schema is none."""


class NotSerialized(Exception):
    """The registry gave the source text of a Protobuf schema."""


class Format(Protocol):
    """Reads data of one schema. Made of a RegisteredSchema; raises Unfit if that cannot be understood."""

    def json(self, data: bytes) -> bytes:
        """The data as JSON.

        Raises:
            Unfit: it is not of the schema.
        """


_RAISED: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    msgspec.MsgspecError,
)


@contextmanager
def unfit(*more: type[Exception]) -> Iterator[None]:
    """Turns what libraries raise of data and schemas into Unfit; they document no closed set."""
    raised = (*_RAISED, *more)
    try:
        yield
    except raised as error:
        raise Unfit(type(error).__name__) from error
