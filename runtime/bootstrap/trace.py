"""The variable that tells a function, and what it starts, of the invocation's X-Ray trace.

The C library keeps every value that a variable was ever set to, and looks among them for each new one: with
one for each invocation memory would grow, and time with it. So the variable stands in memory of ours, which
is written over. Standard library only.
"""

from __future__ import annotations

import ctypes
import os

VARIABLE = "_X_AMZN_TRACE_ID"
LONGEST = 255

libc = ctypes.CDLL(None)


class Trace:
    """Sets it, in `os.environ` and for processes that are started; lives as long as the variable does."""

    def __init__(self) -> None:
        self._name = VARIABLE.encode()
        self._begin = self._name + b"="
        self._text = ctypes.create_string_buffer(len(self._begin) + LONGEST + 1)
        # What `os.environ` holds: to set an item of that itself would have the C library copy the value.
        self._variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]

    def set(self, header: bytes) -> None:
        """Take the header of an invocation that begins; of a longer one, the beginning."""
        header = header[:LONGEST]
        text = b"%b%b\0" % (self._begin, header)
        ctypes.memmove(self._text, text, len(text))
        libc.putenv(self._text)  # once more, for the function may have taken it away
        self._variables[self._name] = header

    def take_away(self) -> None:
        """Have no such variable any more."""
        os.environ.pop(VARIABLE, None)
