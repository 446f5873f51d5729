"""Tars whose headers would fill the memory of whoever reads them."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.confined.tars import ENTRIES, HEADER_BYTES
from millstream.functions.images.files import opened
from tests.functions.images.making import entry, file, layer
from tests.functions.images.test_unpack import unpacked

MANY = f"more than {ENTRIES} entries"
LARGE = f"a header of {HEADER_BYTES + 512} bytes, more than 1 MB"


def many() -> bytes:
    """A tar of more entries than there may be."""
    header, _ = entry("d", tarfile.DIRTYPE)
    return header.tobuf(tarfile.GNU_FORMAT) * (ENTRIES + 1) + bytes(1024)


def large(kind: bytes) -> bytes:
    """A tar with a header that tarfile would read whole."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, HEADER_BYTES + 512
    body = b"%d comment=" % header.size
    body += b"x" * (header.size - len(body) - 1) + b"\n"
    return header.tobuf(tarfile.GNU_FORMAT) + body + layer(file("f"))


LARGE_KINDS = [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]


@pytest.mark.parametrize("packed", [True, False])
def test_a_layer_of_entries_without_end_is_refused(tmp_path: Path, packed: bool) -> None:
    with pytest.raises(InvalidConfiguration, match=MANY):
        unpacked(tmp_path, gzip.compress(many(), 1) if packed else many())


@pytest.mark.parametrize("kind", LARGE_KINDS)
def test_a_large_header_of_a_layer_is_refused_and_not_read(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(InvalidConfiguration, match=LARGE):
        unpacked(tmp_path, gzip.compress(large(kind), 1))


@pytest.mark.parametrize("kind", LARGE_KINDS)
def test_a_large_header_of_an_images_own_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "image.tar").write_bytes(large(kind))
    with pytest.raises(InvalidConfiguration, match=LARGE), opened(tmp_path / "image.tar"):
        pass


def test_headers_that_lead_to_headers_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512
    chain = (header.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000
    with pytest.raises(InvalidConfiguration, match="wanted an image that can be read"):
        unpacked(tmp_path, chain + layer(file("f")))


def test_a_bomb_behind_the_end_of_a_layer_is_read_to_the_limit_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.functions.images.files.ROOM_BYTES", 1_000_000)
    with pytest.raises(InvalidConfiguration, match="more than 1000000 bytes uncompressed"):
        unpacked(tmp_path, gzip.compress(layer(file("f")) + bytes(3 << 20)))
