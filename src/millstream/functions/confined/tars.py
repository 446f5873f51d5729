"""Takes a tar apart: an image's own, or one of its layers, which may be compressed."""

from __future__ import annotations

import gzip
import importlib
import io
import tarfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, Self, cast

from millstream.functions.confined import frames
from millstream.functions.confined.frames import LARGEST, SOURCE, Kind, write, write_value
from millstream.functions.confined.region import Region

ENTRIES = 100_000
HEADERS = 4 * ENTRIES
"""An entry may have several headers: its long name, its long link, its attributes."""

HEADER_BYTES = 1 << 20
"""Largest header of the kinds that tarfile reads whole."""

BATCH_BYTES = LARGEST // 8
"""Names of one frame; in JSON each byte may become six."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

_READ_WHOLE = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}

try:
    zstd: Any = importlib.import_module("compression.zstd")
except ModuleNotFoundError:  # before Python 3.14
    zstd = None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Say the entries of a part of the source, once for each request, and where their bytes are.

    A request: the part's offset and size, how much it may be uncompressed, whether it may be compressed,
    whether the bytes of each file follow it. Without them the rest is read, too, so that damage there is
    seen. The answer: lists of entries, of one each where bytes follow. An entry: name, kind, whether it
    may be executed, size, link, offset of its bytes.
    """
    while True:
        offset, length, room, packed, data = frames.value(frames.read(requests)[1])
        stream: IO[bytes] = io.BufferedReader(Region(SOURCE, offset, length), LARGEST)
        if packed:
            stream = _unpacked(stream)
        archive = tarfile.open(fileobj=stream, mode="r:", tarinfo=_bounded())  # noqa: SIM115  no file of its own
        batch: list[Any] = []
        size = 0
        for member in _members(archive):
            batch.append(_described(member))
            size += len(member.name) + len(member.linkname)
            if data or len(batch) == 100 or size > BATCH_BYTES:
                write_value(answers, batch)
                batch, size = [], 0
            if data and member.isreg():
                _send(archive, member, answers)
        write_value(answers, batch)
        while not data and stream.read(LARGEST):
            if stream.tell() > room:
                raise ValueError(f"more than {room} bytes uncompressed")
        write(answers, Kind.END)
        answers.flush()


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := archive.next()) is not None:
        vars(archive)["members"].clear()  # else it keeps them all
        count += 1
        if count > ENTRIES:
            raise ValueError(f"more than {ENTRIES} entries")
        yield member


def _described(member: tarfile.TarInfo) -> list[Any]:
    kinds = {
        "folder": member.isdir(),
        "link": member.issym(),
        "hard": member.islnk(),
        "sparse": member.issparse(),
        "file": member.isreg(),
    }
    kind = next((name for name, fits in kinds.items() if fits), "other")
    runs = bool(member.mode & 0o111)
    return [member.name, kind, runs, member.size, member.linkname, member.offset_data]


def _send(archive: tarfile.TarFile, member: tarfile.TarInfo, answers: BinaryIO) -> None:
    file = archive.extractfile(member)
    assert file is not None
    while chunk := file.read(LARGEST):
        write(answers, Kind.DATA, chunk)
    write(answers, Kind.END)


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """By what is there, for media types are not always right."""
    start = stream.read(len(ZSTD))
    stream.seek(0)
    if start.startswith(GZIP):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if not start.startswith(ZSTD):
        return stream
    if zstd is None:
        raise ValueError("compressed with zstd, which takes Python 3.14")
    return cast(IO[bytes], zstd.ZstdFile(stream))


def _bounded() -> type[tarfile.TarInfo]:
    """Headers that are counted, and refused if they are large: tarfile looks at each by `frombuf` first."""
    count = 0

    class Bounded(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            nonlocal count
            count += 1
            found = super().frombuf(buf, encoding, errors)
            if found.type in _READ_WHOLE and found.size > HEADER_BYTES:
                raise ValueError(f"a header of {found.size} bytes, more than 1 MB")
            if count > HEADERS:
                raise ValueError(f"more than {HEADERS} headers")
            return found

    return Bounded
