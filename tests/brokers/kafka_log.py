"""Spoils what a broker that is stopped has on its disk."""

from __future__ import annotations

import struct
from pathlib import Path

from crc32c import crc32c

_HEADER_BYTES = 61
_CHECKSUM_AT, _ATTRIBUTES_AT = 17, 21


def spoil(folder: Path, topic: str, *, batch: int, mend_checksum: bool) -> None:
    """Overwrite the records of one batch of a topic's first partition.

    With `mend_checksum` they are as if a producer had sent them so.
    """
    (log,) = (folder / "data" / f"{topic}-0").glob("*.log")
    data = bytearray(log.read_bytes())
    at = 0
    for _ in range(batch):
        at += 12 + _length(data, at)
    end = at + 12 + _length(data, at)
    data[at + _HEADER_BYTES : end] = b"\xa5" * (end - at - _HEADER_BYTES)
    if mend_checksum:
        data[at + _CHECKSUM_AT : at + _ATTRIBUTES_AT] = struct.pack(
            ">I", crc32c(bytes(data[at + _ATTRIBUTES_AT : end]))
        )
    log.write_bytes(data)


def _length(data: bytearray, at: int) -> int:
    (length,) = struct.unpack_from(">i", data, at + 8)
    assert isinstance(length, int)
    return length
