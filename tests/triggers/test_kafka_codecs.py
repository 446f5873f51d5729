"""What is inflated, and what is not."""

from __future__ import annotations

import gzip
import sys
import time
import zlib
from contextlib import suppress

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.triggers import kafka_codecs
from millstream.triggers.kafka_codecs import CodecMissing, NotInflated, inflated

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
XERIAL = b"\x82SNAPPY\x00" + b"\x00\x00\x00\x01" * 2


def xerial(*blocks: bytes) -> bytes:
    """As Java's library writes several blocks."""
    parts = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return XERIAL + b"".join(len(part).to_bytes(4) + part for part in parts)


def compressed(codec: int, data: bytes) -> bytes:
    match codec:
        case 1:
            return gzip.compress(data)
        case 2:
            return bytes(cramjam.snappy.compress_raw(data))
        case 3:
            return bytes(cramjam.lz4.compress(data))
        case _:
            return bytes(cramjam.zstd.compress(data))


CODECS = pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])


@CODECS
@pytest.mark.parametrize("data", [b"", b"x", b"ab" * 1000, bytes(2_000_000)], ids=len)
def test_what_was_compressed_is_inflated(codec: int, data: bytes) -> None:
    assert inflated(codec, compressed(codec, data)) == data


def test_snappy_of_several_blocks_and_gzip_of_several_members_are_read_whole() -> None:
    assert inflated(SNAPPY, xerial(b"one", b"", b"two")) == b"onetwo"
    assert inflated(GZIP, gzip.compress(b"one") + gzip.compress(b"two")) == b"onetwo"


def test_many_members_of_gzip_take_no_longer_than_their_bytes() -> None:
    data = gzip.compress(b"") * 150_000  # 3 MB
    began_at = time.monotonic()
    assert inflated(GZIP, data + gzip.compress(b"x")) == b"x"
    assert time.monotonic() - began_at < 5.0  # it was 11 s, and 4 times as long for twice as much


@CODECS
def test_what_inflates_beyond_the_bound_is_not_kept(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_codecs, "MOST_BYTES", 100_000)
    assert len(inflated(codec, compressed(codec, bytes(100_000)))) == 100_000
    with pytest.raises(NotInflated):
        inflated(codec, compressed(codec, bytes(100_001)))
    with pytest.raises(NotInflated):
        inflated(SNAPPY, xerial(*[bytes(40_000)] * 3))


@given(st.sampled_from([0, GZIP, SNAPPY, LZ4, ZSTD, 5]), st.binary(max_size=100), st.booleans())
def test_no_bytes_make_it_raise_anything_else(codec: int, data: bytes, begun: bool) -> None:
    heads = {GZIP: gzip.compress(b"x" * 50)[:20], SNAPPY: XERIAL, LZ4: compressed(LZ4, b"x")[:7]}
    with suppress(NotInflated):
        inflated(codec, heads.get(codec, b"") * begun + data)


@CODECS
def test_what_is_cut_short_is_not_taken_for_whole(codec: int) -> None:
    data = compressed(codec, zlib.compress(bytes(range(256)) * 10))
    with pytest.raises(NotInflated):
        inflated(codec, data[: len(data) // 2])


def test_gzip_needs_no_package_and_the_others_name_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    zstd = compressed(ZSTD, b"x")
    monkeypatch.setitem(sys.modules, "cramjam", None)
    assert inflated(GZIP, gzip.compress(b"x")) == b"x"
    with pytest.raises(CodecMissing, match="zstd, which needs cramjam"):
        inflated(ZSTD, zstd)
