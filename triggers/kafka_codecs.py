"""Inflates what producers have compressed, to a bound: what a megabyte inflates to is theirs to choose.

gzip is in the standard library. cramjam has the other three in one wheel, where kafka-python looks for
three packages and bounds none of them.
"""

from __future__ import annotations

import zlib
from mmap import mmap
from typing import Any, Final

MOST_BYTES: Final = 128 * 1024 * 1024
"""Of one batch; ordinary ones have a megabyte, and no event more than six."""

USUAL_RATIO, LEAST_BYTES = 8, 64 * 1024
"""What most batches inflate to, at most."""

GZIP_BYTES = 16 * 1024
"""What the library has of gzip at once: it copies what is behind each member, of which there may be many."""

_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16  # with two versions behind the name


class CodecMissing(Exception):
    """The package that reads a codec is not installed."""


class NotInflated(ValueError):
    """The compressed bytes are broken, or hold more than is accepted."""


def inflated(codec: int, data: bytes) -> bytes:
    """What a batch holds, by its codec's number in the protocol.

    Raises:
        CodecMissing: the package for this codec is not installed.
        NotInflated: the batch is broken, or too large.
    """
    match codec:
        case 1:
            return _gzip(data)
        case 2:
            return _snappy(data)
        case 3:
            return _into("lz4", data)
        case 4:
            return _into("zstd", data)
        case other:
            raise NotInflated(f"codec {other}")


def _gzip(data: bytes) -> bytes:
    found, at = bytearray(), 0
    while at < len(data):  # one member after another
        reader = zlib.decompressobj(wbits=31)
        while not reader.eof:
            some = data[at : at + GZIP_BYTES]
            if not some:
                raise NotInflated("gzip, cut short")
            try:
                found += reader.decompress(some, MOST_BYTES + 1 - len(found))
            except zlib.error as error:
                raise NotInflated("gzip") from error
            if len(found) > MOST_BYTES:
                raise NotInflated("too large")
            at += len(some) - len(reader.unused_data) - len(reader.unconsumed_tail)
    return bytes(found)


def _snappy(data: bytes) -> bytes:
    """One block; or several, each behind its length, as Java's library writes them."""
    if not data.startswith(_XERIAL):
        return _block(data, MOST_BYTES)
    found, at = bytearray(), _XERIAL_HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        at += 4
        if size > len(data) - at:
            raise NotInflated("snappy, cut short")
        found += _block(data[at : at + size], MOST_BYTES - len(found))
        at += size
    return bytes(found)


def _block(data: bytes, most_bytes: int) -> bytes:
    snappy = _library("snappy")
    try:
        if snappy.decompress_raw_len(data) > most_bytes:
            raise NotInflated("too large")
        return bytes(snappy.decompress_raw(data))
    except _errors() as error:
        raise NotInflated("snappy") from error


def _into(name: str, data: bytes) -> bytes:
    """Inflate into memory of ours, which bounds the library: first a little, then only what is written to."""
    library = _library(name)
    usual = bytearray(min(max(len(data) * USUAL_RATIO, LEAST_BYTES), MOST_BYTES))
    try:
        return bytes(memoryview(usual)[: library.decompress_into(data, usual)])
    except _errors():
        pass  # too large for that, or broken
    with mmap(-1, MOST_BYTES) as most:
        try:
            size = library.decompress_into(data, most)
        except _errors() as error:
            raise NotInflated(f"{name}, or too large") from error
        return most[:size]


def _library(name: str) -> Any:
    try:
        import cramjam
    except ImportError as error:
        raise CodecMissing(f"compressed with {name}, which needs cramjam (pip install cramjam)") from error
    return getattr(cramjam, name)


def _errors() -> tuple[type[Exception], ...]:
    from cramjam import DecompressionError

    return (DecompressionError, ValueError, OverflowError)
