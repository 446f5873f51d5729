"""What readers of the data formats of schema registries have in common.

The schemas come from the registry, the data from whoever may write to the topic: what is read takes
time and memory by its own size, and none of it makes a reader recurse without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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


@contextmanager
def unfit() -> Iterator[None]:
    """Turns what libraries raise of data and schemas into Unfit; they document no closed set."""
    try:
        yield
    except (Unfit, NotSerialized):
        raise
    except Exception as error:
        raise Unfit(type(error).__name__) from error
