"""Takes headers out of librdkafka's messages, whatever bytes their names are.

`Message.headers` of confluent-kafka, for a name that is no UTF-8, answers with a list and leaves an error
set; the tuple of that header has no name at all, not even None. Python's own fast way to call a method does
not look for such an error, and whoever unpacks such a tuple ends the process. So the method is called by
`map`, which looks, and a tuple that may have no name is asked for it by Python's C interface.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from confluent_kafka import Message

Headers: TypeAlias = list[tuple[str, bytes | None]] | None

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""The name of a header of which no byte is known."""

_item = ctypes.pythonapi.PyTuple_GetItem  # a pointer, null where there is nothing
_item.argtypes = [ctypes.py_object, ctypes.c_ssize_t]
_item.restype = ctypes.c_void_p


def headers_of(messages: Sequence[Message]) -> list[Headers]:
    """The headers of each message; what of a name is no UTF-8 becomes U+FFFD. None: it has none.

    As quick as a plain call of the method, where every name is UTF-8.
    """
    found: list[Headers] = []
    each: Iterator[Any] = map(Message.headers, messages)
    while True:
        try:
            found.extend(each)  # goes on behind a message that raised
        except (SystemError, UnicodeDecodeError) as error:
            found.append(_named(messages[len(found)], error))
        else:
            return found


def _named(message: Message, error: BaseException) -> Headers:
    """The headers of a message whose names were an `error`; the library has kept the list it made."""
    made: Any = next(map(Message.headers, (message,)))
    nameless = {number for number, header in enumerate(made) if not _item(header, 0)}
    name = _name(error) if len(nameless) == 1 else UNKNOWN  # the error may be about any of them
    return [(name, header[1]) if number in nameless else header for number, header in enumerate(made)]


def _name(error: BaseException | None) -> str:
    """The name that an error is about, as far as it can be read."""
    while error is not None:
        if isinstance(error, UnicodeDecodeError):
            return error.object.decode(errors="replace")
        error = error.__cause__ or error.__context__
    return UNKNOWN
