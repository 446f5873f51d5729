"""Frames between the daemon and a confined child: a length, a kind, a body. The standard library alone."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, BinaryIO

LARGEST = 1 << 20
"""Bytes of a body. What is larger is sent in several."""

SOURCE = 3
"""The descriptor of what a child takes apart, where its task has one."""

_HEAD = struct.Struct(">IB")


class Over(Exception):
    """The other side ended, or sent what is no frame."""


class Kind(IntEnum):
    """The content of a frame."""

    VALUE = 0  # JSON
    DATA = 1  # some bytes of a file
    END = 2  # nothing: the file, or the list, is complete
    FAULT = 3  # JSON: the reason why there is no more


def write(out: BinaryIO, kind: Kind, body: bytes = b"") -> None:
    """Write one frame; the caller flushes."""
    out.write(_HEAD.pack(len(body), kind))
    out.write(body)


def write_value(out: BinaryIO, value: object) -> None:
    """Write a value; text may hold what is no UTF-8, as names of files do."""
    write(out, Kind.VALUE, json.dumps(value).encode("ascii"))


def read(source: BinaryIO) -> tuple[Kind, bytes]:
    """Read one frame.

    Raises:
        Over: there is none.
    """
    head = source.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise Over
    size, number = _HEAD.unpack(head)
    if size > LARGEST or number > Kind.FAULT:
        raise Over
    body = source.read(size)
    if len(body) < size:
        raise Over
    return Kind(number), body


def value(body: bytes) -> Any:
    """The value of a frame's JSON.

    Raises:
        Over: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Over from error
