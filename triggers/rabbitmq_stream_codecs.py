"""Inflates sub-batches of RabbitMQ's streams: gzip, Snappy, LZ4, Zstandard; never to more than was said."""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import Any

INFLATED_MOST = 64 * 1024 * 1024
"""Largest sub-batch that is inflated. Producers send 1 MiB at once, if the broker allows no more."""

GZIP_BYTES = 16 * 1024
"""What zlib has of gzip at once: it copies what is behind each member, of which there may be many."""

EXTRA = "millstream[rabbitmq-streams]"

_FRAMED_SNAPPY = b"\xff\x06\x00\x00sNaPpY"
"""How a framed Snappy stream begins, which most clients write; the others write a bare block."""

_GZIP = 16 + zlib.MAX_WBITS


class NotInflated(ValueError):
    """A sub-batch cannot be inflated; the message says why."""


NAMES = {0: None, 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""Codecs by their number. Source: RabbitMQ, "Stream Protocol", Publish; the Java client's `Compression`."""


def inflated(codec: int, data: bytes, size_bytes: int) -> bytes:
    """The content of a sub-batch, which is exactly `size_bytes` long, or is refused.

    Raises:
        NotInflated: it is of another size, too large, broken, or of a codec that nothing here reads.
    """
    if size_bytes > INFLATED_MOST:
        raise NotInflated(f"it has {size_bytes} bytes inflated, and {INFLATED_MOST} is the most")
    name = NAMES.get(codec, "")
    match name:
        case None:
            content = data
        case "gzip":
            content = _gunzipped(data, size_bytes)
        case "":
            raise NotInflated(f"its codec has the number {codec}, which is unknown")
        case _:
            content = _inflated(name, data, size_bytes)
    if len(content) != size_bytes:
        raise NotInflated("it is not of the size that it says")
    return content


def _gunzipped(data: bytes, size_bytes: int) -> bytes:
    """Up to one byte more than `size_bytes`."""
    found, at = bytearray(), 0
    try:
        while at < len(data) and len(found) <= size_bytes:  # one member after another
            member = zlib.decompressobj(_GZIP)
            while not member.eof and len(found) <= size_bytes:
                some = data[at : at + GZIP_BYTES]
                if not some:
                    raise NotInflated("it is cut short (gzip)")
                found += member.decompress(some, size_bytes + 1 - len(found))
                at += len(some) - len(member.unused_data) - len(member.unconsumed_tail)
    except zlib.error:
        raise NotInflated("it is broken (gzip)") from None
    return bytes(found)


def _inflated(name: str, data: bytes, size_bytes: int) -> bytes:
    """Up to `size_bytes`, as nothing is written beyond the place that there is."""
    try:
        cramjam = import_module("cramjam")
    except ModuleNotFoundError:
        raise NotInflated(f"it needs a library for {name} (pip install '{EXTRA}')") from None
    try:
        content = bytearray(size_bytes)
        length = _reader(cramjam, name, data)(data, content)
    except cramjam.DecompressionError:
        raise NotInflated(f"it is broken, or larger than it says ({name})") from None
    return bytes(content[:length])


def _reader(cramjam: Any, name: str, data: bytes) -> Any:
    if name == "snappy" and not data.startswith(_FRAMED_SNAPPY):
        return cramjam.snappy.decompress_raw_into
    return getattr(cramjam, name).decompress_into
